//! docs/bgp.md shows a configuration, which is one.

use std::{fs, path::Path};

use margay_speaker::DaemonConfig;

#[test]
fn the_example_is_a_configuration() -> Result<(), Box<dyn std::error::Error>> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/bgp.md"))?;
    let (_, rest) = text.split_once("```yaml\n").ok_or("there is no example")?;
    let (example, _) = rest.split_once("```").ok_or("the example has no end")?;
    let config: DaemonConfig = example.parse()?;
    config.speaker.validate()?;
    assert_eq!(
        (config.speaker.peers.len(), config.speaker.dynamic.len()),
        (4, 1)
    );
    Ok(())
}
