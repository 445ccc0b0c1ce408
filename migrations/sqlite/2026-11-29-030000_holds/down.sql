DROP TABLE hold_audit;
DROP TABLE holds;
