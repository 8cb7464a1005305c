//! docs/cni.md shows a configuration, which is one.

use std::fs;
use std::path::Path;

use serde_json::Value;

#[test]
fn the_example_is_a_configuration() -> Result<(), Box<dyn std::error::Error>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cni.md"))?;
    let (_, rest) = text.split_once("```json\n").ok_or("there is no example")?;
    let (example, _) = rest.split_once("```").ok_or("the example has no end")?;
    let config: Value = serde_json::from_str(example)?;
    assert_eq!(config["type"], "margay-cni");
    Ok(())
}
