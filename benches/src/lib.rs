//! Workloads, trace replay and the load tester `larder-bench`.
