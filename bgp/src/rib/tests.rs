mod harness;
mod model;
mod sequences;
