-- Sent by pgfleet_worker.handlers.csv_export, in this order, in one transaction.

-- name: settings
-- Encoding: in a session of another one, the statement below could not be sent. (Hence this text is ASCII alone.)
-- No nested loops: where statistics are older than the library (80 books when analyzed, then 300,000 of a new reader)
-- the planner expects one book and aggregates the notes anew for each: called off after 120 s; without them, 0.9 s.
-- No limit but the task's own: a web application's role often has one for its requests, and a slow volume counts as well.
SELECT set_config('client_encoding', 'UTF8', true), set_config('enable_nestloop', 'off', true),
       set_config(limits.name, '0', true)
FROM unnest(ARRAY['statement_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout']) limits(name)
WHERE current_setting(limits.name, true) IS NOT NULL

-- name: count
SELECT count(*) FROM books WHERE owner_id = %(owner_id)s

-- name: copy
-- One reader's library as CSV, in one statement and therefore of one moment. {owner_id} is put in by the client
-- (a literal integer): COPY takes no parameters.
--
-- The formula guard, twin of pgfleet.csv_guard: a text that, any apostrophes before it aside, begins with a character
-- that makes a spreadsheet compute gets one apostrophe more. The first test is the cheap one that nearly all rows end at.
-- guard.first is folded into a constant (hence chr(), not E''). For 1,000,000 rows, five columns: no guard 2.0 s,
-- this 2.3 s, the ltrim() alone 3.0 s, a regular expression 3.1 s.
--
-- Notes are aggregated once and joined: BookLogr's migrations put no index on notes.book_id, so a subquery per book
-- would read all notes for each. The inner join with books keeps other readers' notes out of the sort.
-- BookLogr writes its times in UTC, into columns without a zone.
COPY (
    SELECT
        CASE WHEN left(b.title, 1) = ANY (guard.first) AND left(ltrim(b.title, ''''), 1) = ANY (guard.first)
             THEN '''' || b.title ELSE b.title END AS title,
        CASE WHEN left(b.isbn, 1) = ANY (guard.first) AND left(ltrim(b.isbn, ''''), 1) = ANY (guard.first)
             THEN '''' || b.isbn ELSE b.isbn END AS isbn,
        CASE WHEN left(b.description, 1) = ANY (guard.first) AND left(ltrim(b.description, ''''), 1) = ANY (guard.first)
             THEN '''' || b.description ELSE b.description END AS description,
        CASE WHEN left(b.reading_status, 1) = ANY (guard.first)
                  AND left(ltrim(b.reading_status, ''''), 1) = ANY (guard.first)
             THEN '''' || b.reading_status ELSE b.reading_status END AS reading_status,
        b.current_page,
        b.total_pages,
        CASE WHEN left(b.author, 1) = ANY (guard.first) AND left(ltrim(b.author, ''''), 1) = ANY (guard.first)
             THEN '''' || b.author ELSE b.author END AS author,
        b.rating,
        coalesce(noted.notes::text, '[]') AS notes
    FROM books AS b
    CROSS JOIN (
        SELECT string_to_array('=+-@＝＋－＠''' || chr(9) || chr(10) || chr(13), NULL) AS first
    ) AS guard
    LEFT JOIN (
        SELECT
            n.book_id,
            json_agg(
                json_build_object(
                    'content', n.content,
                    'quote_page', n.quote_page,
                    'visibility', n.visibility,
                    'created_on', to_char(n.created_on, 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')
                ) ORDER BY n.id
            ) AS notes
        FROM notes AS n
        JOIN books AS own ON own.id = n.book_id AND own.owner_id = {owner_id}
        GROUP BY n.book_id
    ) AS noted ON noted.book_id = b.id
    WHERE b.owner_id = {owner_id}
    ORDER BY b.id
) TO STDOUT WITH (FORMAT csv, HEADER true, ENCODING 'UTF8')
