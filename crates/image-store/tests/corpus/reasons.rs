//! The intended differences between an image's files and the files that umoci unpacks.

use std::path::Path;

use super::description::{Described, Entry};
use super::tree::Difference;

/// The reason for an intended difference.
pub fn reason(image: &Described, difference: &Difference) -> Option<&'static str> {
    let Difference {
        path,
        fact,
        ours,
        theirs,
    } = difference;
    let entries = || image.layers.iter().flatten();
    let newest = image.layers.last().into_iter().flatten();
    let mut newest = newest.map(|entry| Path::new(&entry.path));
    let has_entry = newest.any(|entry| entry == path);
    let deletes = entries().any(|entry| entry.path.contains(".wh."));
    let deletes_in =
        |entry: &&Entry| entry.path.contains(".wh.") && Path::new(&entry.path).starts_with(path);
    match *fact {
        "mode" | "attributes" | "time" if path.as_os_str().is_empty() => {
            Some("of the root only the owner is the image's, as with containerd")
        }
        "time" if !has_entry => Some("nothing says when a directory without an entry was changed"),
        "time" if theirs.parse().is_ok_and(|time: i64| time > 1_700_000_000) => {
            Some("umoci does not restore the time after it has removed a file")
        }
        "kind" if theirs == "nothing" && entries().any(|entry| deletes_in(&entry)) => {
            Some("a deletion makes the directory that it is in, as with containerd")
        }
        "kind" if theirs == "nothing" && ours == "directory" && deletes => {
            Some("a deletion makes the directory that it is in, also through a link")
        }
        "attributes" if ours.contains(": []") => {
            Some("umoci takes an attribute without a value for none")
        }
        "mode" if !has_entry && theirs.starts_with('2') && theirs.ends_with(ours.as_str()) => {
            Some("a missing directory has mode 0755; umoci leaves it the group of the one above")
        }
        _ => None,
    }
}
