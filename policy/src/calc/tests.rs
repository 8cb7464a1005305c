//! Tests of the calculation: named examples, state sequences, and an oracle.

mod examples;
