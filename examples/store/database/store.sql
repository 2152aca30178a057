-- The store's data, made once on the primary.
CREATE TABLE products (
	id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
	cents      bigint NOT NULL CHECK (cents BETWEEN 0 AND 100000000),
	added_at   timestamptz NOT NULL DEFAULT now(),
	-- The server that accepted the row.
	written_on text NOT NULL DEFAULT coalesce(host(inet_server_addr()), 'its own socket')
);

INSERT INTO products (name, cents, written_on) VALUES
	('Oak desk', 24900, 'setup'),
	('Reading lamp', 3950, 'setup'),
	('Notebook, ruled', 480, 'setup');
