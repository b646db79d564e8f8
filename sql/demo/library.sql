-- BookLogr's own two tables as its migrations make them, for the demo library and the tests only: in a real
-- installation they belong to BookLogr, and `pgfleet migrate` never touches them.
CREATE TABLE IF NOT EXISTS books (
    id serial PRIMARY KEY,
    title varchar,
    subtitle varchar,
    isbn varchar,
    description varchar,
    author varchar,
    reading_status varchar,
    current_page integer,
    total_pages integer,
    rating numeric(3, 2),
    owner_id integer,
    created_on timestamp
);

CREATE TABLE IF NOT EXISTS notes (
    id serial PRIMARY KEY,
    book_id integer REFERENCES books (id),
    content varchar NOT NULL,
    quote_page integer,
    visibility varchar DEFAULT 'hidden',
    created_on timestamp DEFAULT now()
);
