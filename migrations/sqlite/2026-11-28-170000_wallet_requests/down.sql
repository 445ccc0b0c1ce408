DROP TABLE wallet_requests;
