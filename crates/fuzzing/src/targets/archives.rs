//! Whole image archives, as the input of `mainstay image import`.

use image_store::decoders;
use json_tree::Value;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::Target;
use kube_api_server::decoders::json;

/// A list of `[name, kind, contents]`: `-` for files, `l` for links, `d` for directories. Contents are a text, a list
/// of this form for a nested archive, or any other value for JSON.
///
/// `@0` in a name or in contents stands for the digest of the first entry, and so on, so that references between
/// entries stay correct after a mutation.
fn archive(entries: &[Value]) -> Vec<u8> {
    let mut digests: Vec<String> = Vec::new();
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let contents = match &entry[2] {
            Value::String(text) => named(text, &digests).into_bytes(),
            Value::Array(within) => archive(within),
            other => named(&other.to_string(), &digests).into_bytes(),
        };
        digests.push(hex(&contents));
        let name = named(entry[0].as_str().unwrap_or_default(), &digests);
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        let bytes = name.as_bytes();
        let length = bytes.len().min(100);
        if let Some(old) = header.as_gnu_mut() {
            old.name[..length].copy_from_slice(&bytes[..length]);
        }
        let kind = entry[1].as_str().unwrap_or_default();
        let contents = match kind {
            "l" => {
                let link = contents.get(..contents.len().min(100)).unwrap_or_default();
                header.set_entry_type(EntryType::Symlink);
                if let Some(old) = header.as_gnu_mut() {
                    old.linkname[..link.len()].copy_from_slice(link);
                }
                Vec::new()
            }
            "d" => {
                header.set_entry_type(EntryType::Directory);
                Vec::new()
            }
            _ => contents,
        };
        header.set_size(contents.len() as u64);
        header.set_cksum();
        if builder.append(&header, contents.as_slice()).is_err() {
            break;
        }
    }
    builder.into_inner().unwrap_or_default()
}

/// A text in which the references are replaced by digests.
fn named(text: &str, digests: &[String]) -> String {
    let numbered = digests.iter().enumerate().rev();
    numbered.fold(text.to_owned(), |text, (number, digest)| {
        text.replace(&format!("@{number}"), digest)
    })
}

fn hex(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub const ARCHIVE: Target = Target {
    name: "image-archive",
    seeds: &[
        br#"[["layer.tar","-",[["etc/","d",""],["etc/name","-","text"],["link","l","etc/name"]]],
["config.json","-",{"architecture":"amd64","os":"linux","config":{"Env":["A=b"]},"rootfs":{"type":"layers","diff_ids":["sha256:@0"]}}],
["manifest.json","-","[{\"Config\":\"config.json\",\"RepoTags\":[\"example/app:1\"],\"Layers\":[\"layer.tar\"]}]"]]"#,
        br#"[["blobs/sha256/@0","-",[["file","-","text"]]],
["blobs/sha256/@1","-",{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:@0"]}}],
["blobs/sha256/@2","-",{"schemaVersion":2,"config":{"digest":"sha256:@1","size":1,"mediaType":"application/vnd.oci.image.config.v1+json"},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:@0","size":1}]}],
["blobs/sha256/@3","-",{"schemaVersion":2,"manifests":[{"digest":"sha256:@2","size":1,"platform":{"os":"linux","architecture":"amd64"}}]}],
["index.json","-",{"schemaVersion":2,"manifests":[{"digest":"sha256:@3","size":1,"annotations":{"org.opencontainers.image.ref.name":"example/app:1"}}]}],
["oci-layout","-",{"imageLayoutVersion":"1.0.0"}]]"#,
        br#"[["x/layer.tar","l","../y/layer.tar"],["../../out","-","text"],["/etc/passwd","-","text"],["a","l","/etc/passwd"],["a/b","-","text"],["index.json","l","../../../../etc/passwd"]]"#,
    ],
    words: &[
        "@0", "@1", "@2", "@3", "blobs/sha256/", "index.json", "manifest.json", "../", "/", "sha256:", "amd64",
        "linux", "layers", "manifests", "config", "digest", "RepoTags", "annotations", ".wh.", ".wh..wh..opq",
        "-", "l", "d",
    ],
    run: |bytes| {
        let whole = match json(bytes) {
            Some(Value::Array(entries)) => archive(&entries),
            _ => bytes.to_vec(),
        };
        let Ok(directory) = tempfile::tempdir() else {
            return;
        };
        decoders::archive(directory.path(), &whole);
        // No file is written outside of the store.
        let mut names: Vec<_> = std::fs::read_dir(directory.path())
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        assert!(names.len() <= 2 && names.first().is_none_or(|name| name == "archive.tar"), "{names:?}");
    },
};
