DROP FUNCTION wallet_apply_once;
DROP TABLE wallet_requests;
