// @generated automatically by Diesel CLI.

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

diesel::allow_tables_to_appear_in_same_query!(dead_letters, odds_current, odds_history,);
