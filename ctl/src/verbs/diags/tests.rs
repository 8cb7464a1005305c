//! What is in an archive, and what is not.

use std::io::Read;

use super::redact::redact;

#[test]
fn an_archive_has_its_files_in_one_folder_and_goes_to_nobody_else() {
    use std::os::unix::fs::PermissionsExt;

    use super::archive::Archive;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.tar.gz");
    let mut archive = Archive::new("2026-11-21T05:02:52Z".parse().unwrap());
    archive.add("config", "etcdPassword = hush (file)\n".to_owned());
    archive.add_result(
        "status.json",
        Err("nobody answers https://joe:hush@a".to_owned()),
    );
    assert_eq!(archive.save(&path).unwrap(), (2, 1));
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let file = std::fs::File::open(&path).unwrap();
    let mut read = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let files: Vec<(String, String)> = read
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        })
        .collect();
    assert_eq!(
        files,
        [
            (
                "diags-20261121_050252/config".to_owned(),
                "etcdPassword = (removed) (file)\n".to_owned()
            ),
            (
                "diags-20261121_050252/status.json.failed".to_owned(),
                "nobody answers https://(removed)@a\n".to_owned()
            ),
        ]
    );
    assert!(archive.save(&path).is_err(), "over a file that is there");
    assert_eq!(redact(""), "");
}
