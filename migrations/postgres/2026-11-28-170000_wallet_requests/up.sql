-- Idempotency keys of wallet requests: the first answer to each, written in the transaction of its movement. Each
-- operation has its own keys, as do bets (bet_requests).

CREATE TABLE wallet_requests (
    user_id TEXT COLLATE "C" NOT NULL,
    operation transfer_kind NOT NULL,
    key money_name NOT NULL,
    -- The canonical form of the request. Another request with the same key is rejected.
    fingerprint TEXT NOT NULL,
    -- JSON; src/store/movements.rs reads it. Empty only until the end of the transaction that claims the key.
    answer TEXT NOT NULL,
    at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (user_id, operation, key)
)
-- The answer is written after the key is claimed. Free space keeps both versions on one page.
WITH (fillfactor = 70);

-- Executes a movement, unless its key has an answer. The key is claimed first, so that a request with the same key waits
-- for that row until the first request has committed, even if no wallet exists to wait for.
CREATE FUNCTION wallet_apply_once(
    p_user TEXT, p_operation TEXT, p_key TEXT, p_fingerprint TEXT, p_amount BIGINT, p_reference TEXT, p_id UUID,
    p_now TIMESTAMPTZ, OUT answer TEXT
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    v_first RECORD;
    v_moved RECORD;
    v_answer JSON;
BEGIN
    INSERT INTO wallet_requests (user_id, operation, key, fingerprint, answer, at)
    VALUES (p_user, p_operation, p_key, p_fingerprint, '', p_now) ON CONFLICT (user_id, operation, key) DO NOTHING;
    IF NOT FOUND THEN
        SELECT kept.fingerprint, kept.answer INTO STRICT v_first FROM wallet_requests AS kept
        WHERE kept.user_id = p_user AND kept.operation = p_operation AND kept.key = p_key;
        answer := CASE WHEN v_first.fingerprint = p_fingerprint THEN v_first.answer ELSE '{"outcome":"KEY_REUSED"}' END;
        RETURN;
    END IF;
    IF p_operation IN ('deposit', 'withdraw') THEN
        v_moved := wallet_move(p_user, p_operation, p_amount, p_reference, p_id, p_now);
        v_answer := json_build_object('outcome', v_moved.outcome, 'wallet', v_moved.wallet,
            'available', v_moved.available, 'reserved', v_moved.reserved);
    ELSIF p_operation = 'reserve' THEN
        v_moved := wallet_reserve(p_user, p_amount, p_reference, p_id, NULL, p_now);
        v_answer := json_build_object('outcome', v_moved.outcome, 'reservation', v_moved.reservation,
            'amount', p_amount, 'status', v_moved.status,
            'created', (EXTRACT(EPOCH FROM v_moved.created) * 1000000)::BIGINT,
            'settled', (EXTRACT(EPOCH FROM v_moved.settled) * 1000000)::BIGINT);
    ELSE
        v_moved := wallet_settle(p_user, p_reference, p_operation, NULL, p_now);
        v_answer := json_build_object('outcome', v_moved.outcome, 'reservation', v_moved.reservation,
            'amount', v_moved.amount, 'status', v_moved.status,
            'created', (EXTRACT(EPOCH FROM v_moved.created) * 1000000)::BIGINT,
            'settled', (EXTRACT(EPOCH FROM v_moved.settled) * 1000000)::BIGINT);
    END IF;
    answer := v_answer::TEXT;
    UPDATE wallet_requests AS kept SET answer = v_answer::TEXT
    WHERE kept.user_id = p_user AND kept.operation = p_operation AND kept.key = p_key;
END $$;
