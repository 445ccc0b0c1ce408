-- Creates the two logins of the platform on its own database. Run it as a superuser, connected to
-- that database:
--
--   psql "$ADMIN_URL" -v owner_password=... -v app_password=... -f docker/postgres/roles.sql
--
-- sports_bet_owner owns the tables; only `sports-bet migrate` uses it. sports_bet_app is the login
-- in the DATABASE_URL of every role: it reads and writes rows, but cannot alter a table or disable
-- a trigger of the ledger. The script is safe to run again. On a database that an earlier version
-- migrated, it changes the owner of the tables. -v owner=... and -v app=... choose other names.
\set ON_ERROR_STOP on
\if :{?owner} \else \set owner sports_bet_owner \endif
\if :{?app} \else \set app sports_bet_app \endif

BEGIN;
SELECT format('CREATE ROLE %I', name) FROM unnest(ARRAY[:'owner', :'app']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE :"owner" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'owner_password';
ALTER ROLE :"app" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'app_password';

REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO :"owner", :"app";
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO :"owner";
GRANT USAGE ON SCHEMA public TO :"app";

-- Take over objects that an earlier version created as another login.
SELECT format('ALTER TABLE %s OWNER TO %I', oid::regclass, :'owner') FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') \gexec
SELECT format('ALTER ROUTINE %s OWNER TO %I', oid::regprocedure, :'owner') FROM pg_proc
WHERE pronamespace = 'public'::regnamespace \gexec
SELECT format('ALTER %s %s OWNER TO %I', CASE typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, t.oid::regtype, :'owner')
FROM pg_type AS t LEFT JOIN pg_class AS c ON c.oid = t.typrelid
WHERE typnamespace = 'public'::regnamespace AND (typtype IN ('d', 'e', 'r') OR (typtype = 'c' AND c.relkind = 'c')) \gexec

-- Grants access to rows only, also for objects of later migrations. TRUNCATE, REFERENCES and
-- TRIGGER stay with the owner.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO :"app";
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO :"app";
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public TO :"app";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO :"app";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO :"app";
ALTER DEFAULT PRIVILEGES FOR ROLE :"owner" IN SCHEMA public GRANT EXECUTE ON ROUTINES TO :"app";

-- Only the owner records which migrations have run. The table is defined as diesel would define it.
SET LOCAL ROLE :"owner";
CREATE TABLE IF NOT EXISTS public.__diesel_schema_migrations (
    version VARCHAR(50) PRIMARY KEY NOT NULL,
    run_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
);
REVOKE INSERT, UPDATE, DELETE ON public.__diesel_schema_migrations FROM :"app";
RESET ROLE;
COMMIT;
