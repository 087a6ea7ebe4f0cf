CREATE TYPE mood AS ENUM ('sad','merry','calm','Zed');
CREATE DOMAIN posint AS int CHECK (VALUE > 0);
CREATE DOMAIN word AS text CHECK (length(VALUE) < 40);
CREATE DOMAIN glad AS mood CHECK (VALUE <> 'sad');
CREATE TYPE pair AS (x int, e mood);
CREATE TYPE span AS RANGE (subtype = mood);
CREATE TABLE om (id int PRIMARY KEY, code text, n numeric, big bool, e mood, f float8);
CREATE TABLE ob (id int PRIMARY KEY, om_id int REFERENCES om(id), label text);
CREATE TABLE a (id bigint PRIMARY KEY, i int, b bigint, s smallint, n numeric, m numeric(12,3), f float8, r real, t text, v varchar(20), c char(5),
  z timestamptz, ts timestamp, d date, iv interval, bo bool, j jsonb, ai int[], at text[], y bytea, e mood, ir int4range, dp posint, dw word, u uuid, ti time, es mood[], gl glad, pr pair, ps pair[], sp span);
CREATE TABLE ch (a_id bigint REFERENCES a(id), no int, q int, w numeric(10,2), t text, om_id int REFERENCES om(id), d date, PRIMARY KEY (a_id, no));
CREATE TABLE tx (k text PRIMARY KEY, i int, t text, n numeric, d date, bo bool, g int GENERATED ALWAYS AS (i * 2) STORED);
CREATE TABLE tc (k text REFERENCES tx(k) ON DELETE CASCADE, no int, q int, z timestamptz DEFAULT '2024-01-01', PRIMARY KEY (k, no));
CREATE TABLE uu (k uuid PRIMARY KEY, i int, t text, f float8, e mood, pr pair);
CREATE TABLE lr (k bigint PRIMARY KEY, i int, t text, m numeric(10,3), bo bool DEFAULT true);
CREATE TABLE lt (k varchar(20) PRIMARY KEY, i int, n numeric, t text);
CREATE SCHEMA base;
