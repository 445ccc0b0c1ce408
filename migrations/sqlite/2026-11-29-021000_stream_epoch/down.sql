DROP TABLE stream_epoch;
