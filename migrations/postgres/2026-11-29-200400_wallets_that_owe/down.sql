DROP INDEX CONCURRENTLY wallets_that_owe;
