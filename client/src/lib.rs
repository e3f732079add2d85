//! The smart client: routing, sessions, deadlines; the `larder` command.
