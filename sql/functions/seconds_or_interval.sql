-- A duration in JSON: a number of seconds, or a text that Postgres reads as an interval. A day is 24 hours; months, of which
-- nobody can say how long they are, are refused. Null for null.
create or replace function seconds_or_interval(given jsonb) returns interval language plpgsql immutable as $$
declare
    duration interval;
begin
    if given is null or jsonb_typeof(given) = 'null' then
        return null;
    end if;
    if jsonb_typeof(given) = 'number' then
        return make_interval(secs => given::double precision);
    end if;
    duration := (given #>> '{}')::interval;
    if extract(year from duration) <> 0 or extract(month from duration) <> 0 then
        raise exception 'a duration has no months' using errcode = '22008';
    end if;
    return make_interval(secs => extract(epoch from duration)::double precision);
end $$;
