mod harness;
mod model;
mod rewrite;
mod sequences;
