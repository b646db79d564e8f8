-- A run's data with the event that made it: under the key `event` where the data is a JSON object, else both in a new object.
create or replace function data_with_event(data text, name text, payload jsonb) returns text language plpgsql immutable as $$
declare
    event jsonb := jsonb_build_object('name', name, 'payload', payload);
    given jsonb;
begin
    if data is null then
        return jsonb_build_object('event', event);
    end if;
    begin
        given := data::jsonb;
    exception when others then  -- no JSON, or none that jsonb can hold
        given := to_jsonb(data);
    end;
    if jsonb_typeof(given) = 'object' then
        return given || jsonb_build_object('event', event);
    end if;
    return jsonb_build_object('event', event, 'data', given);
end $$;
