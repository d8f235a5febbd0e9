"""The schema of the hub's file, and how an older file is brought to it.

Times are microseconds since 1970. Histories and messages are protobuf; a history is kept as chunks, one for each
turn, that are serialized ``OrchestratorRequest`` messages with only ``pastEvents`` set: laid one after another they
are the past of the next turn on the wire, and the hub never has to parse them.
"""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE instances (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        instance_id TEXT NOT NULL UNIQUE,
        execution_id TEXT NOT NULL,
        name TEXT NOT NULL,
        version TEXT,
        status INTEGER NOT NULL,
        turn INTEGER NOT NULL DEFAULT 0,          -- counts what changed the instance from outside its own turns, too
        chunks INTEGER NOT NULL DEFAULT 0,        -- of history; 0 means that the next turn begins with start_events
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        completed_at INTEGER,
        scheduled_at INTEGER,
        parent_id INTEGER,                        -- who gets the outcome of a sub-orchestration
        parent_execution_id TEXT,
        parent_task_id INTEGER,
        tags TEXT,
        trace BLOB,
        start_events BLOB NOT NULL,
        custom_status TEXT,
        failure BLOB,
        input TEXT,
        output TEXT
    ) STRICT;
    CREATE INDEX instances_by_status ON instances (status, id);
    CREATE INDEX instances_by_completion ON instances (completed_at, instance_id) WHERE completed_at IS NOT NULL;
    CREATE INDEX instances_by_parent ON instances (parent_id) WHERE parent_id IS NOT NULL;
    CREATE INDEX instances_by_creation ON instances (created_at, id);

    CREATE TABLE history (
        instance INTEGER NOT NULL,
        chunk INTEGER NOT NULL,
        past_events BLOB NOT NULL,
        PRIMARY KEY (instance, chunk)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE messages (                        -- what the next turn of an instance will get
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        instance INTEGER NOT NULL,
        of_execution INTEGER NOT NULL,             -- 1: an answer to this execution, which continue-as-new drops
        event BLOB NOT NULL
    ) STRICT;
    CREATE INDEX messages_by_instance ON messages (instance, id);

    CREATE TABLE activities (                      -- scheduled and not completed
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        instance INTEGER NOT NULL,
        task_id INTEGER NOT NULL,
        name TEXT NOT NULL,
        version TEXT,
        request BLOB NOT NULL
    ) STRICT;
    CREATE INDEX activities_by_instance ON activities (instance);

    CREATE TABLE timers (                          -- whatever is to happen at a time
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        due INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        target INTEGER NOT NULL,                   -- an instance, or an entity
        sender INTEGER,
        event BLOB
    ) STRICT;
    CREATE INDEX timers_by_due ON timers (due, id);
    CREATE INDEX timers_by_target ON timers (target, kind);

    CREATE TABLE entities (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        entity_id TEXT NOT NULL UNIQUE,
        turn INTEGER NOT NULL DEFAULT 0,
        updated_at INTEGER NOT NULL,
        locked_by INTEGER,                         -- the instance that holds the lock
        lock_section TEXT,
        state TEXT
    ) STRICT;
    CREATE INDEX entities_by_lock ON entities (locked_by) WHERE locked_by IS NOT NULL;

    CREATE TABLE operations (                      -- what an entity has yet to do, in its order
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        entity INTEGER NOT NULL,
        sender INTEGER,                            -- the instance that sent it; passes that instance's own lock
        event BLOB NOT NULL
    ) STRICT;
    CREATE INDEX operations_by_entity ON operations (entity, id);
    """,
)
"""Script N brings a file from version N to version N + 1."""
