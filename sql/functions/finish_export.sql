-- started -> success, together with the row that lets the reader download the file; only for the attempt that holds it.
-- The file stands under its final name before this is called: a file without a row is swept, a row without a file can't be.
create or replace function finish_export(
    worker text, id bigint, attempt integer, result text,
    filename text, owner_id bigint, format text, bytes bigint, sha256 text,
    cpu_seconds double precision default null, peak_memory bigint default null
) returns void language plpgsql as $$
begin
    -- Said twice, by a worker whose connection broke at the first one's commit: it stands already.
    perform from exports e join tasks t on t.id = e.task_id
    where e.filename = finish_export.filename and e.format = finish_export.format
      and (t.id, t.worker, t.attempt, t.status) = (finish_export.id, finish_export.worker, finish_export.attempt, 'success');
    if found then
        return;
    end if;
    if finish_tasks(worker, array[id], array[attempt], array[result], array[cpu_seconds], array[peak_memory]) <> '{}' then
        raise exception 'Task % is no longer held by % in attempt %.', id, worker, attempt using errcode = 'PF004';
    end if;
    insert into exports (filename, owner_id, task_id, format, bytes, sha256)
    values (filename, owner_id, id, format, bytes, sha256)
    -- A task that is done once more: the holder's file is the one that counts, the other is swept. A new id, by which polls
    -- see that the list has changed.
    on conflict on constraint exports_one_of_a_task do update set
        id = excluded.id, filename = excluded.filename, owner_id = excluded.owner_id, created_at = excluded.created_at,
        bytes = excluded.bytes, sha256 = excluded.sha256;
end $$;
