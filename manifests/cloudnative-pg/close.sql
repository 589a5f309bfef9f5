GRANT CONNECT ON DATABASE postgres TO streaming_replica;
GRANT CONNECT ON DATABASE postgres, ahoi TO cnpg_metrics_exporter;
REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC;
