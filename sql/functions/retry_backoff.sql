-- How long a task waits after its nth failure: its delay, doubled each time, at most an hour (or the delay itself where
-- that is longer), spread by a fifth either way so that what failed together does not come back together.
create or replace function retry_backoff(delay interval, failures integer) returns interval language sql volatile as $$
    select case when delay >= interval '1 hour' then delay  -- doubling it would leave the range of intervals
                else least(delay * power(2, least(failures, 30) - 1), interval '1 hour') end * (0.8 + 0.4 * random());
$$;
