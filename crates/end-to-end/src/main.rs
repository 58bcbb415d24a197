//! Writes an image of the tests as an archive for `mainstay image import`: `cargo run -p end-to-end -- redis:7
//! redis.tar`.

use std::path::Path;
use std::process::ExitCode;

use end_to_end::applications;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, file] = arguments.as_slice() else {
        return refuse("two arguments are wanted, an image and a file");
    };
    let Some((_, make)) = applications::ALL
        .iter()
        .find(|(image_name, _)| image_name == name)
    else {
        return refuse(&format!("{name} is not made here"));
    };
    let repository = match name.as_str() {
        "cassandra:v13" => "gcr.io/google-samples",
        _ => "docker.io/library",
    };
    let reference = format!("{repository}/{name}");
    make().write_archive(Path::new(file), &reference);
    ExitCode::SUCCESS
}

fn refuse(why: &str) -> ExitCode {
    let names: Vec<&str> = applications::ALL.iter().map(|(name, _)| *name).collect();
    eprintln!("{why}; images: {}", names.join(", "));
    ExitCode::FAILURE
}
