mod add_path;
mod chores;
mod handover;
mod harness;
mod long_lived;
mod model;
mod rewrite;
mod sequences;
