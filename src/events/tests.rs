//! Tests of the owner, with stores in memory.
