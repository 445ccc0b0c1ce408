// @generated automatically by Diesel CLI.

diesel::table! {
    api_key_audit (id) {
        id -> BigInt,
        key_id -> BigInt,
        action -> Text,
        prefix -> Text,
        scopes -> Text,
        note -> Text,
        expires_at -> Nullable<BigInt>,
        done_by -> Text,
        at -> BigInt,
    }
}

diesel::table! {
    api_keys (id) {
        id -> BigInt,
        hash -> Binary,
        prefix -> Text,
        scopes -> Text,
        note -> Text,
        expires_at -> Nullable<BigInt>,
        created_by -> Text,
        created_at -> BigInt,
        last_used_at -> Nullable<BigInt>,
        revoked_by -> Nullable<Text>,
        revoked_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    bet_history (id) {
        id -> BigInt,
        bet_id -> Text,
        old_status -> Nullable<Text>,
        new_status -> Text,
        reason -> Nullable<Text>,
        at -> BigInt,
    }
}

diesel::table! {
    bet_requests (user_id, key) {
        user_id -> Text,
        key -> Text,
        fingerprint -> Text,
        bet_id -> Nullable<Text>,
        new_balance -> Nullable<BigInt>,
        refusal -> Nullable<Text>,
        at -> BigInt,
    }
}

diesel::table! {
    bet_settlements (bet_id, n) {
        bet_id -> Text,
        n -> Integer,
        outcome -> Nullable<Text>,
        payout_cents -> BigInt,
        difference_cents -> BigInt,
        reason -> Text,
        generation -> BigInt,
        at -> BigInt,
    }
}

diesel::table! {
    bets (id) {
        id -> Text,
        user_id -> Text,
        event_id -> Text,
        market -> Text,
        line -> Text,
        selection -> Text,
        stake_cents -> BigInt,
        price_thousandths -> Integer,
        status -> Text,
        reason -> Nullable<Text>,
        provider_ref -> Nullable<Text>,
        placed_at -> BigInt,
        decide_by -> BigInt,
        decided_at -> Nullable<BigInt>,
        outcome -> Nullable<Text>,
        payout_cents -> Nullable<BigInt>,
        settled_at -> Nullable<BigInt>,
        settlements -> Integer,
        settled_by -> BigInt,
        held -> Nullable<Text>,
    }
}

diesel::table! {
    bets_to_settle (bet_id) {
        bet_id -> Text,
        at -> BigInt,
    }
}

diesel::table! {
    dead_letters (id) {
        id -> BigInt,
        received_at -> BigInt,
        origin -> Text,
        reason -> Text,
        detail -> Text,
        raw -> Binary,
    }
}

diesel::table! {
    hold_audit (id) {
        id -> BigInt,
        hold_id -> BigInt,
        action -> Text,
        scope -> Text,
        source -> Nullable<Text>,
        event_id -> Nullable<Text>,
        market -> Nullable<Text>,
        line -> Nullable<Text>,
        selection -> Nullable<Text>,
        until -> Nullable<BigInt>,
        reason -> Text,
        done_by -> Text,
        at -> BigInt,
    }
}

diesel::table! {
    holds (id) {
        id -> BigInt,
        request -> Text,
        scope -> Text,
        source -> Nullable<Text>,
        event_id -> Nullable<Text>,
        market -> Nullable<Text>,
        line -> Nullable<Text>,
        selection -> Nullable<Text>,
        until -> Nullable<BigInt>,
        reason -> Text,
        created_by -> Text,
        created_at -> BigInt,
        release_reason -> Nullable<Text>,
        released_by -> Nullable<Text>,
        released_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    ledger_transfers (id) {
        id -> BigInt,
        user_id -> Text,
        kind -> Text,
        debit_account -> Text,
        credit_account -> Text,
        amount_cents -> BigInt,
        reference -> Text,
        available_after -> BigInt,
        reserved_after -> BigInt,
        at -> BigInt,
    }
}

diesel::table! {
    market_results (event_id, market, line, source, kind, updated_at, version, content_hash) {
        event_id -> Text,
        market -> Text,
        line -> Text,
        source -> Text,
        kind -> Text,
        updated_at -> BigInt,
        version -> BigInt,
        content_hash -> Binary,
        record -> Text,
        generation -> BigInt,
        received_at -> BigInt,
    }
}

diesel::table! {
    market_settlements (event_id, market, line) {
        event_id -> Text,
        market -> Text,
        line -> Text,
        generation -> BigInt,
        settled_generation -> BigInt,
        rules -> Text,
        conflicts -> BigInt,
        held -> Nullable<Text>,
        missing -> BigInt,
        due_since -> BigInt,
        next_attempt_at -> BigInt,
        lease -> Nullable<Text>,
    }
}

diesel::table! {
    odds_current (event_id, market, line) {
        event_id -> Text,
        market -> Text,
        line -> Text,
        home_team -> Text,
        away_team -> Text,
        status -> Text,
        in_play -> Bool,
        selections -> Text,
        source -> Text,
        version -> BigInt,
        updated_at -> BigInt,
        seq -> BigInt,
        sport -> Nullable<Text>,
        start_time -> Nullable<BigInt>,
    }
}

diesel::table! {
    odds_history (id) {
        id -> BigInt,
        event_id -> Text,
        market -> Text,
        line -> Text,
        status -> Text,
        in_play -> Bool,
        selections -> Text,
        source -> Text,
        version -> BigInt,
        updated_at -> BigInt,
        recorded_at -> BigInt,
    }
}

diesel::table! {
    outbox (id) {
        id -> BigInt,
        topic -> Text,
        key -> Text,
        payload -> Text,
        leased_until -> BigInt,
        created_at -> BigInt,
        traceparent -> Nullable<Text>,
    }
}

diesel::table! {
    reservations (id) {
        id -> Text,
        user_id -> Text,
        reference -> Text,
        amount_cents -> BigInt,
        status -> Text,
        bet_id -> Nullable<Text>,
        created_at -> BigInt,
        settled_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    revoked_users (id) {
        id -> BigInt,
        user_id -> Text,
        issued_before -> BigInt,
        revoked_by -> Text,
    }
}

diesel::table! {
    stream_epoch (id) {
        id -> BigInt,
        epoch -> Text,
    }
}

diesel::table! {
    supplier_cancels (bet_id) {
        bet_id -> Text,
        attempts -> Integer,
        next_attempt_at -> BigInt,
        created_at -> BigInt,
        done_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    wallet_requests (user_id, operation, key) {
        user_id -> Text,
        operation -> Text,
        key -> Text,
        fingerprint -> Text,
        answer -> Text,
        at -> BigInt,
    }
}

diesel::table! {
    wallets (user_id) {
        user_id -> Text,
        wallet_id -> Text,
        available_cents -> BigInt,
        reserved_cents -> BigInt,
        created_at -> BigInt,
        owed_cents -> BigInt,
    }
}

diesel::joinable!(api_key_audit -> api_keys (key_id));
diesel::joinable!(bet_history -> bets (bet_id));
diesel::joinable!(bet_settlements -> bets (bet_id));
diesel::joinable!(bets -> wallets (user_id));
diesel::joinable!(hold_audit -> holds (hold_id));
diesel::joinable!(ledger_transfers -> wallets (user_id));
diesel::joinable!(reservations -> wallets (user_id));
diesel::joinable!(supplier_cancels -> bets (bet_id));

diesel::allow_tables_to_appear_in_same_query!(
    api_key_audit,
    api_keys,
    bet_history,
    bet_requests,
    bet_settlements,
    bets,
    bets_to_settle,
    dead_letters,
    hold_audit,
    holds,
    ledger_transfers,
    market_results,
    market_settlements,
    odds_current,
    odds_history,
    outbox,
    reservations,
    revoked_users,
    stream_epoch,
    supplier_cancels,
    wallet_requests,
    wallets,
);
