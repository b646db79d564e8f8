-- Loads the demo library, %(library)s being the JSON of pgfleet.demo, unless there are books already.
WITH given AS MATERIALIZED (
    SELECT nextval(pg_get_serial_sequence('books', 'id')) AS book_id, entry.*
    FROM (
        SELECT * FROM jsonb_to_recordset(%(library)s::jsonb) AS book (
            owner_id integer, title text, subtitle text, isbn text, description text, author text,
            reading_status text, current_page integer, total_pages integer, rating numeric(3, 2),
            created_on timestamp, notes jsonb
        )
        WHERE NOT EXISTS (SELECT FROM books)
        ORDER BY created_on
    ) AS entry
), shelved AS (
    INSERT INTO books (id, title, subtitle, isbn, description, author, reading_status, current_page, total_pages,
                       rating, owner_id, created_on)
    SELECT book_id, title, subtitle, isbn, description, author, reading_status, current_page, total_pages,
           rating, owner_id, created_on
    FROM given
)
INSERT INTO notes (book_id, content, quote_page, visibility, created_on)
SELECT given.book_id, note.content, note.quote_page, coalesce(note.visibility, 'hidden'),
       given.created_on + note.number * interval '1 hour'
FROM given
CROSS JOIN LATERAL ROWS FROM (
    jsonb_to_recordset(given.notes) AS (content text, quote_page integer, visibility text)
) WITH ORDINALITY AS note (content, quote_page, visibility, number)
ORDER BY given.book_id, note.number
