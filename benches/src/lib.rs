//! Criterion benches and side-by-side comparisons; figures and how they were taken
//! are in BASELINE.md. No test asserts a time.
