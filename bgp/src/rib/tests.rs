mod add_path;
mod harness;
mod long_lived;
mod model;
mod rewrite;
mod sequences;
