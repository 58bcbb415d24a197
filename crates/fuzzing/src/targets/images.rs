//! Responses of registries, and image archives.

use image_store::decoders;

use super::Target;

pub const PAX: Target = Target {
    name: "pax",
    seeds: &[
        b"12 size=4\n\n18 path=dir/file\n30 mtime=1700000000.123456789\n",
        b"14 uid=100000\n12 gid=1000\n25 SCHILY.xattr.user.a=b\n16 linkpath=../x\n",
        b"11 size=4\n",
    ],
    words: &[
        "size=",
        "inf",
        "nan",
        "-1",
        "1e308",
        "18446744073709551615",
        "path=",
        "..",
        "\n",
    ],
    run: |bytes| {
        assert!(decoders::pax(bytes) <= 1);
    },
};

pub const TAR_HEADER: Target = Target {
    name: "tar-header",
    seeds: &[
        b"file\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x000000644\x000001750\x000001750\x0000000000004\x0000000000000\0        0",
        b"link",
    ],
    words: &["0", "1", "2", "5", "L", "K", "x", "g", "\u{7f}", "77777777777", "../", "/"],
    run: |bytes| {
        decoders::tar_header(bytes);
    },
};

pub const MANIFEST: Target = Target {
    name: "image-manifest",
    seeds: &[
        br#"{"schemaVersion":2,"config":{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":1},"layers":[{"mediaType":"x","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":9}]}"#,
        br#"{"schemaVersion":2,"manifests":[{"digest":"sha256:0","size":1,"platform":{"os":"linux","architecture":"amd64","variant":"v8"}}]}"#,
        br#"{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"ExposedPorts":{"80/tcp":{}},"Volumes":null},"rootfs":{"type":"layers","diff_ids":["sha256:0"]}}"#,
    ],
    words: &["sha256:", "sha512:", "linux", "-1", "18446744073709551616", "null"],
    run: |bytes| {
        decoders::manifest(bytes);
        decoders::config(bytes);
    },
};

pub const CHALLENGE: Target = Target {
    name: "www-authenticate",
    seeds: &[
        br#"Bearer realm="https://auth.example/token",service="r",scope="repository:a/b:pull""#,
        br#"Negotiate, basic realm="x", Bearer realm=https://a"#,
    ],
    words: &[
        "Bearer", "Basic", "realm=", "\"", "\\", ",", "service=", "https://",
    ],
    run: |bytes| {
        decoders::challenge(bytes);
    },
};

pub const ANSWER: Target = Target {
    name: "registry-answer",
    seeds: &[
        br#"{"token":"a.b.c","access_token":"x","expires_in":300,"issued_at":"2026-01-01T00:00:00Z"}"#,
        br#"{"errors":[{"code":"DENIED","message":"no","detail":{"a":[1]}}]}"#,
    ],
    words: &["token", "access_token", "errors", "code", "message", "null"],
    run: |bytes| drop(decoders::response(bytes)),
};

pub const REFERENCE: Target = Target {
    name: "image-reference",
    seeds: &[
        b"nginx:1.9.1",
        b"registry.example:5000/a/b@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        b"localhost/x",
    ],
    words: &["/", ":", "@", "sha256:", "..", "docker.io", "library", "_", "__", "-"],
    run: |bytes| {
        if let Some(name) = std::str::from_utf8(bytes).ok().and_then(|text| image_store::normalize(text).ok()) {
            // The canonical form is its own canonical form.
            assert_eq!(image_store::normalize(&name).as_ref(), Ok(&name));
        }
    },
};

pub const PULL_SECRET: Target = Target {
    name: "pull-secret",
    seeds: &[
        br#"{"auths":{"https://registry.example/v1/":{"auth":"YTpi"},"x":{"username":"a","password":"b"}}}"#,
        br#"{"registry.example":{"auth":"YTpi"}}"#,
    ],
    words: &["auths", "auth", "username", "password", "registry.example", "https://", "null"],
    run: |bytes| {
        node_agent::decoders::pull_secret(bytes);
    },
};

pub const REDIRECT: Target = Target {
    name: "redirect",
    seeds: &[
        b"https://layers.example/x?y=z",
        b"http://127.0.0.1:2379/",
        b"http://[::ffff:169.254.169.254]/latest",
    ],
    words: &[
        "http://",
        "https://",
        "localhost",
        "127.1",
        "0x7f000001",
        "[::1]",
        "@",
        ":",
        ".",
        "%",
    ],
    run: |bytes| {
        let Ok(location) = std::str::from_utf8(bytes) else {
            return;
        };
        // A redirect stays within HTTP and HTTPS, whatever its form is.
        let allowed = decoders::redirect("https://registry.example", location);
        let start = location.trim_start().to_ascii_lowercase();
        assert!(!allowed || !start.starts_with("file:"));
    },
};

pub const PROBE_REDIRECT: Target = Target {
    name: "probe-redirect",
    seeds: &[
        b"/x?y=z#f",
        b"http://10.0.0.1:8080/../a/./b",
        b"//10.0.0.1:99999/x",
        b"https://user:pass@10.0.0.1/",
    ],
    words: &[
        "http://", "//", "10.0.0.1", ":", "@", "..", "/./", "?", "#", "%2e", "[::1]",
    ],
    run: |bytes| {
        let Ok(location) = std::str::from_utf8(bytes) else {
            return;
        };
        if let Some(url) = node_agent::decoders::probe_redirect(location) {
            // A probe of a container is sent only to the container itself.
            let rest = url.split_once("://").map_or("", |(_, rest)| rest);
            assert!(rest.starts_with("10.0.0.1:"), "{url}");
        }
    },
};

pub const ENV_FILE: Target = Target {
    name: "env-file",
    seeds: &[
        b"A='one'\nB=\"two\"\n# a comment\nC=three\n",
        b"export A=1\nA=\"a\\nb\"\n",
    ],
    words: &["A=", "'", "\"", "\\", "\n", "#", "=", "$", " "],
    run: |bytes| {
        if let Ok(text) = std::str::from_utf8(bytes) {
            let _refused = pod_lifecycle::environment::env_file::value(text, "A");
        }
    },
};
