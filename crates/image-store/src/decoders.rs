//! The decoders of registries' responses and of archives, for the fuzzer.

use std::io::Read;
use std::path::Path;

use http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use tar::{EntryType, Header};

use crate::manifest;
use crate::pull;
use crate::store::ImageStore;
use crate::unpack::entries;

/// Maximum number of bytes that are read from the content of a file.
const CONTENTS_MAX: u64 = 1 << 16;

/// Decodes an archive with one file and these records of an extended header. Returns the number of valid
/// entries.
pub fn pax(records: &[u8]) -> usize {
    let mut extended = Header::new_ustar();
    extended.set_entry_type(EntryType::XHeader);
    extended.set_size(records.len() as u64);
    let mut archive = block(extended);
    archive.extend_from_slice(records);
    archive.resize(archive.len().next_multiple_of(512), 0);
    let mut file = Header::new_ustar();
    file.set_size(4);
    archive.extend(block(file));
    archive.extend_from_slice(b"text");
    read(&archive)
}

/// Decodes an archive that begins with this header, after correcting the checksum. Returns the number of
/// valid entries.
pub fn tar_header(bytes: &[u8]) -> usize {
    let mut header = Header::new_old();
    let whole = header.as_mut_bytes();
    let length = bytes.len().min(whole.len());
    whole[..length].copy_from_slice(&bytes[..length]);
    let mut archive = block(header);
    archive.extend_from_slice(&bytes[length..]);
    read(&archive)
}

fn block(mut header: Header) -> Vec<u8> {
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn read(archive: &[u8]) -> usize {
    let mut entries = entries(archive);
    let mut count = 0;
    while let Ok(Some(_)) = entries.next() {
        count += 1;
        let mut contents = Vec::new();
        if (&mut entries)
            .take(CONTENTS_MAX)
            .read_to_end(&mut contents)
            .is_err()
        {
            break;
        }
    }
    count
}

/// Parses a manifest or index, and chooses this machine's platform. Returns whether the document is valid.
pub fn manifest(bytes: &[u8]) -> bool {
    match manifest::parse(bytes) {
        Ok(manifest::Manifest::Index(entries)) => manifest::for_this_platform(&entries).is_ok(),
        Ok(manifest::Manifest::Image { .. }) => true,
        Err(_) => false,
    }
}

/// Parses an image's configuration. Returns whether it is valid.
pub fn config(bytes: &[u8]) -> bool {
    manifest::configuration(bytes).is_ok()
}

/// Parses an authentication challenge. Returns whether the client supports it.
pub fn challenge(text: &[u8]) -> bool {
    let value = HeaderValue::from_bytes(text);
    value.is_ok_and(|value| pull::meets(&HeaderMap::from_iter([(WWW_AUTHENTICATE, value)])))
}

/// Whether a registry may redirect to a location.
pub fn redirect(endpoint: &str, location: &str) -> bool {
    pull::may_send(endpoint, location)
}

/// Imports an archive into an empty store in `directory`. Returns the names of its images.
pub fn archive(directory: &Path, bytes: &[u8]) -> Option<Vec<String>> {
    let file = directory.join("archive.tar");
    std::fs::write(&file, bytes).ok()?;
    let store = ImageStore::open(directory.join("images")).ok()?;
    store.import(&file).ok()
}

/// Parses a registry's response: a token, or an error.
pub fn response(bytes: &[u8]) -> Option<String> {
    let token = pull::token(bytes).ok().flatten();
    token.or_else(|| Some(pull::error_text(bytes)))
}
