//! The images of tests and examples, built of Debian packages in the form that the manifests expect: names of programs,
//! accounts and directories are those of the images on docker.io.

use crate::debian::Recipe;
use crate::image::{Image, Settings};
use crate::musl;

/// Builds an image, or returns the stored image.
pub type Maker = fn() -> Image;

/// The images that the examples name, with their makers.
pub const ALL: &[(&str, Maker)] = &[
    ("busybox:1", busybox),
    ("busybox:1.28.4", old_busybox),
    ("cassandra:v13", cassandra),
    ("mariadb:10.11", mariadb),
    ("nginx:1.9.1", || nginx("1.9.1")),
    ("postgres:15", postgres),
    ("redis:5-alpine", redis),
    ("redis:7", redis),
    ("wordpress:6", wordpress),
    ("zookeeper:3.8", zookeeper),
];

/// One static program and its links.
///
/// # Panics
/// The packages are missing.
pub fn busybox() -> Image {
    let settings = Settings {
        cmd: &["sh"],
        ..Settings::default()
    };
    let recipe = Recipe {
        name: "busybox",
        packages: "busybox",
        settings,
        ..Recipe::default()
    };
    recipe.image()
}

/// busybox with the `nslookup` of versions up to 1.28, a program with glibc that `cargo xtask setup` builds. The other
/// commands are those of the present busybox, except for the shell, because a busybox shell prefers its own `nslookup`.
///
/// # Panics
///
/// The packages or the program are missing.
pub fn old_busybox() -> Image {
    let settings = Settings {
        cmd: &["sh"],
        ..Settings::default()
    };
    let recipe = Recipe {
        name: "busybox-1.28",
        packages: "old-busybox",
        trees: &[("old-nslookup", "usr/local/bin")],
        settings,
        ..Recipe::default()
    };
    recipe.image()
}

/// The resolver programs: BIND's `dig`, glibc's `getent`, busybox' `nslookup`, the old `nslookup` in `/usr/local/old`,
/// and as `musl-getaddrinfo` a program with musl, which is built here.
///
/// # Panics
///
/// The packages are missing, or there is no C compiler.
pub fn resolvers() -> Image {
    let source = include_str!("../images/getaddrinfo.c");
    let built = "musl-getaddrinfo";
    musl::build(source, "resolvers", &crate::tools().join(built).join(built));
    let recipe = Recipe {
        name: "resolvers",
        packages: "resolvers",
        trees: &[(built, "usr/local/bin"), ("old-nslookup", "usr/local/old")],
        files: &[("usr/local/src/getaddrinfo.c", 0o644, source)],
        ..Recipe::default()
    };
    recipe.image()
}

/// nginx in the form of the articles' image: serves `/usr/share/nginx/html` on port 80, logs to standard output.
/// `label` distinguishes the images of several tags.
///
/// # Panics
///
/// The packages are missing.
pub fn nginx(label: &str) -> Image {
    let directories = [
        "var/log/nginx",
        "var/lib/nginx",
        "run",
        "usr/share/nginx/html",
    ];
    let configuration = include_str!("../images/nginx.conf");
    let settings = Settings {
        cmd: &["/usr/sbin/nginx"],
        ..Settings::default()
    };
    let recipe = Recipe {
        name: &format!("nginx-{label}"),
        packages: "nginx",
        directories: &directories.map(|path| (path, 0, 0o755)),
        files: &[
            ("etc/nginx/nginx.conf", 0o644, configuration),
            ("etc/image-label", 0o644, label),
        ],
        settings,
        ..Recipe::default()
    };
    recipe.image()
}

/// Redis with Sentinel.
///
/// # Panics
/// The packages are missing.
pub fn redis() -> Image {
    let settings = Settings {
        cmd: &["redis-server"],
        ..Settings::default()
    };
    let recipe = Recipe {
        name: "redis",
        packages: "redis",
        users: &[("redis", 999)],
        directories: &[("data", 999, 0o755)],
        settings,
        ..Recipe::default()
    };
    recipe.image()
}

/// MariaDB with its programs for backups, and socat.
///
/// # Panics
/// The packages are missing.
pub fn mariadb() -> Image {
    let settings = Settings {
        cmd: &["mariadbd"],
        ..Settings::default()
    };
    let recipe = Recipe {
        name: "mariadb",
        packages: "mariadb",
        unused: &[
            "aria_*",
            "innochecksum",
            "mariadb-check",
            "mariadb-conv",
            "mariadb-import",
            "mariadb-plugin",
            "mariadb-show",
            "mariadb-slap",
            "mariadb-tzinfo-to-sql",
            "mariadb-upgrade",
            "myisam*",
            "perror",
        ],
        users: &[("mysql", 999)],
        directories: &[
            ("var/lib/mysql", 999, 0o755),
            ("run/mysqld", 999, 0o777),
            ("etc/mysql/conf.d", 0, 0o755),
        ],
        links: &[("etc/mysql/my.cnf", "mariadb.cnf")],
        settings,
        ..Recipe::default()
    };
    recipe.image()
}

/// PostgreSQL, its programs on the path.
///
/// # Panics
/// The packages are missing.
pub fn postgres() -> Image {
    const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
    let programs = [
        "initdb",
        "pg_basebackup",
        "pg_ctl",
        "pg_isready",
        "postgres",
        "psql",
    ];
    let links = programs.map(|name| (format!("usr/bin/{name}"), format!("{PROGRAMS}/{name}")));
    let links = links.each_ref().map(|(link, target)| (&**link, &**target));
    let settings = Settings {
        cmd: &["postgres"],
        ..Settings::default()
    };
    let recipe = Recipe {
        name: "postgres",
        packages: "postgres",
        users: &[("postgres", 999)],
        directories: &[
            ("var/lib/postgresql/data", 999, 0o700),
            ("run/postgresql", 999, 0o777),
        ],
        links: &[&links[..], &[("var/run", "/run")]].concat(),
        settings,
        ..Recipe::default()
    };
    recipe.image()
}

/// ZooKeeper, with a Java runtime.
///
/// # Panics
/// The packages are missing.
pub fn zookeeper() -> Image {
    let settings = Settings {
        cmd: &["zkServer.sh", "start-foreground", "/conf/zoo.cfg"],
        ..Settings::default()
    };
    let server = include_str!("../images/zkServer.sh");
    let client = include_str!("../images/zkCli.sh");
    let log = include_str!("../images/log4j.properties");
    let recipe = Recipe {
        name: "zookeeper",
        packages: "zookeeper",
        unused: JAVA_UNUSED,
        users: &[("zookeeper", 1000)],
        directories: &[("data", 1000, 0o755), ("conf", 0, 0o755)],
        files: &[
            ("usr/local/bin/zkServer.sh", 0o755, server),
            ("usr/local/bin/zkCli.sh", 0o755, client),
            ("etc/zookeeper/conf/log4j.properties", 0o644, log),
        ],
        links: &[("usr/bin/java", JAVA)],
        settings,
        ..Recipe::default()
    };
    recipe.image()
}

#[cfg(target_arch = "x86_64")]
const JAVA: &str = "/usr/lib/jvm/java-17-openjdk-amd64/bin/java";
#[cfg(target_arch = "aarch64")]
const JAVA: &str = "/usr/lib/jvm/java-17-openjdk-arm64/bin/java";

/// The tables of Java's compiler, fonts, and the archive of classes for heaps of more than 32 GB.
const JAVA_UNUSED: &[&str] = &["classes_nocoops.jsa", "ct.sym", "fonts"];

/// WordPress with Apache and PHP, without the library for pictures.
///
/// # Panics
///
/// The packages are missing.
pub fn wordpress() -> Image {
    let settings = Settings {
        entrypoint: &["docker-entrypoint.sh"],
        cmd: &["apache2-foreground"],
        directory: "/var/www/html",
        ..Settings::default()
    };
    let start = include_str!("../images/wordpress.sh");
    let server = "#!/bin/sh\nexec apache2 -DFOREGROUND -f /etc/apache2/wordpress.conf\n";
    let apache = include_str!("../images/apache.conf");
    let php = include_str!("../images/php.ini");
    let recipe = Recipe {
        name: "wordpress",
        packages: "wordpress",
        unused: &[
            "apache2/icons",
            "aria_*",
            "fileinfo.so",
            "libSvtAv1*",
            "libaom*",
            "libheif*",
            "libx265*",
            "magic.mgc",
            "mariadb",
            "mariadb-*",
            "my_print_defaults",
            "perror",
        ],
        users: &[("www-data", 33)],
        directories: &[
            ("var/www/html", 33, 0o755),
            ("var/log/apache2", 0, 0o755),
            ("run/lock", 0, 0o777),
        ],
        files: &[
            ("usr/local/bin/docker-entrypoint.sh", 0o755, start),
            ("usr/local/bin/apache2-foreground", 0o755, server),
            ("etc/apache2/wordpress.conf", 0o644, apache),
            ("etc/php/8.2/apache2/php.ini", 0o644, php),
            // WordPress' own list of certificate authorities links to this file, which Debian creates at installation.
            ("etc/ssl/certs/ca-certificates.crt", 0o644, ""),
        ],
        settings,
        ..Recipe::default()
    };
    recipe.image()
}

/// Cassandra in the form of the tutorial's image: started by `run.sh` from variables, probed by `ready-probe.sh`.
///
/// # Panics
///
/// The packages are missing.
pub fn cassandra() -> Image {
    let settings = Settings {
        cmd: &["/run.sh"],
        ..Settings::default()
    };
    let file = |name| (name, 0o755);
    let files = [
        (file("run.sh"), include_str!("../images/cassandra/run.sh")),
        (
            file("ready-probe.sh"),
            include_str!("../images/cassandra/ready-probe.sh"),
        ),
        (
            file("usr/local/bin/nodetool"),
            include_str!("../images/cassandra/nodetool"),
        ),
        (
            file("usr/local/bin/cassandra-cli"),
            include_str!("../images/cassandra/cassandra-cli"),
        ),
        (
            ("opt/cassandra/conf/logback.xml", 0o644),
            include_str!("../images/cassandra/logback.xml"),
        ),
    ];
    let recipe = Recipe {
        name: "cassandra",
        packages: "cassandra",
        unused: JAVA_UNUSED,
        trees: &[
            ("cassandra-2.1.0/lib", "opt/cassandra/lib"),
            ("cassandra-2.1.0/conf", "opt/cassandra/conf"),
        ],
        directories: &[("cassandra_data", 0, 0o755)],
        files: &files.map(|((name, mode), contents)| (name, mode, contents)),
        links: &[("usr/bin/java", JAVA)],
        settings,
        ..Recipe::default()
    };
    recipe.image()
}

/// VictoriaMetrics, a scraper with a database.
///
/// # Panics
///
/// The packages are missing.
pub fn victoria_metrics() -> Image {
    let settings = Settings {
        cmd: &["victoria-metrics"],
        ..Settings::default()
    };
    let recipe = Recipe {
        name: "victoria-metrics",
        packages: "victoria-metrics",
        unused: &[
            "vmagent",
            "vmalert",
            "vmauth",
            "vmbackup",
            "vmctl",
            "vmrestore",
        ],
        settings,
        ..Recipe::default()
    };
    recipe.image()
}
