-- Schedules are items of the cluster scheduler API, which knows them by UUIDs: of version 8 (RFC 9562), made of the name's
-- SHA-256, so that a schedule that is removed and put again is the same item. An index, because the name can't be read back.
alter table schedules add column item_id uuid not null generated always as ((
    overlay(overlay(left(encode(sha256(('pgfleet schedule ' || name)::bytea), 'hex'), 32)
        placing '8' from 13)
        placing translate(substr(encode(sha256(('pgfleet schedule ' || name)::bytea), 'hex'), 17, 1),
                          '0123456789abcdef', '89ab89ab89ab89ab') from 17)
)::uuid) stored;
create unique index schedules_as_items on schedules (item_id);
