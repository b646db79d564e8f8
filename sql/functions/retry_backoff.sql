-- How long a task waits after its nth failure: its delay, doubled each time, at most the ceiling (or the delay itself
-- where that is longer), spread by a fifth either way so that what failed together does not come back together.
-- In seconds: a year, doubled thirty times, would leave the range of intervals.
create or replace function retry_backoff(delay interval, failures integer, ceiling interval default '1 hour')
returns interval language sql volatile as $$
    select make_interval(secs => (0.8 + 0.4 * random()) * least(
        extract(epoch from delay)::double precision * power(2::double precision, least(failures, 30) - 1),
        extract(epoch from greatest(delay, ceiling))::double precision));
$$;
