//! The whole agent against a real API server in memory, with real containers and network: needs root and
//! Debian's busybox.
//!
//! The program is also the shim, which has to start before any thread. So the program has a `main`
//! function, and runs its tests one after another. Arguments choose tests by a part of their name, or by
//! the name of their module and `::`. Without arguments, each module runs in a separate process, and a few
//! processes run concurrently.

#![expect(clippy::unwrap_used, reason = "a test that finds nothing fails")]

mod absent_server;
mod admission;
mod block;
mod csi;
mod csi_block;
mod csi_faults;
mod csi_limits;
mod csi_speed;
mod devices;
mod endings;
mod ephemeral;
mod faults;
mod grpc;
mod harness;
mod hooks;
mod hostile_images;
mod https;
mod images;
mod kernel_refusals;
mod leases;
mod lifetimes;
mod limits;
mod names;
mod nfs;
mod node;
mod own_users;
mod place;
mod pods;
mod pressure;
mod quota;
mod registry;
mod resize;
mod restarts;
mod spdy_client;
mod spec;
mod terminal;
mod trace;
mod updates;
mod volumes;

use std::future::Future;
use std::io::{Read, Seek};
use std::pin::Pin;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

type Test = fn() -> Pin<Box<dyn Future<Output = ()>>>;

macro_rules! tests {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$((
            concat!(stringify!($module), "::", stringify!($name)),
            || Box::pin($module::$name()),
        )),*]
    };
}

/// The slowest modules are first.
const TESTS: &[(&str, Test)] = tests![
    csi::a_volume_is_staged_once_and_published_for_each_pod,
    csi::a_pod_s_own_volume_lives_with_it_and_drivers_see_the_kubelet_s_directory,
    csi::an_agent_and_a_driver_that_were_away_leave_nothing_mounted,
    csi::a_volume_grows_in_use_and_at_the_next_mount,
    csi::figures_are_the_driver_s_and_volumes_are_published_again,
    csi::an_agent_that_is_killed_in_any_call_mounts_nothing_twice_and_loses_nothing,
    csi::a_volume_waits_for_its_attachment_and_is_in_use_before,
    csi_faults::a_registrar_that_is_refused_hears_why,
    csi_faults::a_socket_that_says_nothing_holds_up_no_other,
    csi_faults::the_node_shows_the_drivers_that_are_registered_and_no_others,
    csi_faults::a_driver_that_answers_nonsense_is_asked_again,
    csi_faults::secrets_that_are_missing_are_named,
    csi_faults::the_end_of_a_pod_touches_no_volume_of_others,
    csi_faults::a_volume_that_cannot_be_unstaged_holds_no_pod_up_and_is_tried_again,
    csi_faults::a_volume_that_was_never_staged_is_not_unstaged,
    csi_faults::a_pod_runs_whose_driver_has_made_no_target,
    csi_faults::a_volume_that_its_driver_does_not_know_is_released,
    csi_faults::a_volume_for_one_pod_is_given_to_one_at_a_time,
    pods::a_pod_runs_answers_and_goes,
    pods::what_is_missing_is_told_and_healed,
    pods::containers_start_in_order_and_crash_with_back_off,
    pods::probes_decide_readiness_and_restarts,
    pods::the_end_is_graceful,
    volumes::files_environment_and_tokens_are_there_and_follow_their_objects,
    volumes::a_token_is_for_the_user_that_the_pod_has,
    volumes::a_claim_keeps_what_a_pod_wrote,
    nfs::an_export_is_shared_by_pods_and_its_server_may_go_away,
    block::a_device_of_the_node_is_one_of_the_pods,
    block::an_image_is_a_device_while_pods_use_it,
    block::the_built_in_runtime_is_the_only_one,
    csi_block::a_device_of_a_driver_is_one_of_the_pods,
    csi_limits::a_pod_waits_until_the_driver_takes_its_volume_too,
    csi_speed::a_pod_costs_the_calls_that_a_hand_would_make,
    devices::devices_are_one_pods_until_it_ends_even_after_a_restart,
    devices::a_plugin_that_is_wrong_fails_only_pods_with_its_devices,
    devices::claims_are_prepared_for_their_pods_and_reverted_after_the_last,
    devices::a_device_that_no_specification_has_is_named,
    quota::a_volume_with_a_project_is_limited_and_stays_in_it,
    admission::what_does_not_fit_is_refused_once,
    admission::ports_of_the_node_are_one_pods,
    node::pods_end_by_priority_within_the_time_that_the_node_leaves,
    node::another_address_is_told_and_harms_nobody,
    node::who_was_taken_for_lost_says_that_it_works,
    node::a_deleted_node_is_registered_again_and_its_pods_go_on,
    node::what_operators_add_to_the_node_can_be_used,
    absent_server::containers_go_on_and_are_started_again,
    absent_server::a_container_keeps_its_environment_while_the_server_is_away,
    absent_server::what_was_deleted_meanwhile_ends_before_its_successor,
    absent_server::a_machine_that_was_off_starts_nothing,
    absent_server::the_deadline_of_pods_is_not_moved,
    leases::a_fenced_node_returns_without_the_pods_that_fail_over,
    leases::a_node_whose_lease_is_gone_returns_without_the_pods_that_fail_over,
    terminal::who_is_attached_hears_the_end_without_an_error,
    terminal::who_attaches_after_the_end_hears_it_without_an_error,
    terminal::who_has_just_read_the_log_hears_what_was_said_since,
    terminal::commands_run_with_input_output_and_exit_code,
    endings::a_command_gets_all_that_was_sent_and_then_its_end,
    endings::a_container_gets_all_that_who_was_attached_has_sent,
    endings::a_port_gets_all_that_was_forwarded,
    endings::a_client_that_still_sends_gets_all_output_and_the_status,
    https::commands_and_logs_go_over_the_network,
    ephemeral::a_running_pod_is_looked_into,
    ephemeral::what_runs_has_figures,
    resize::limits_follow_what_is_asked_for,
    resize::limits_of_the_pod_follow_what_is_asked_for,
    spdy_client::older_clients_run_commands,
    spdy_client::older_clients_attach_and_hear_the_end_without_an_error,
    spdy_client::ports_of_a_pod_are_forwarded,
    restarts::a_new_agent_takes_over_what_runs,
    restarts::a_stopped_node_brings_its_pods_back,
    restarts::pods_that_are_gone_are_cleared_away,
    restarts::a_lost_sandbox_is_made_again,
    restarts::one_container_may_have_all_start_anew,
    spec::kernel_parameters_are_the_pods_own_or_refused,
    spec::images_are_volumes_and_files_of_the_node_are_profiles,
    spec::files_of_objects_change_at_once_but_not_those_mounted_alone,
    spec::an_init_container_may_write_the_environment,
    own_users::all_of_a_pod_has_the_same_users_and_its_files_theirs,
    own_users::what_cannot_be_shown_with_its_users_is_refused,
    hooks::hooks_ask_wait_and_hold_back_what_follows,
    hooks::a_hook_by_https_is_heard_by_who_speaks_no_tls,
    hooks::hooks_that_fail_are_told_without_what_they_printed,
    hooks::containers_get_the_signal_that_they_ask_for,
    hooks::what_an_agent_has_left_ends_as_its_pods_say,
    hooks::a_hook_that_was_cut_off_runs_again,
    place::namespaces_and_the_order_of_killing_are_as_asked,
    place::groups_and_process_files_are_as_asked,
    place::later_mounts_travel_as_far_as_the_pod_says,
    names::names_and_resolvers_are_as_asked,
    lifetimes::sidecars_end_last_and_in_reverse,
    lifetimes::time_is_limited_and_readiness_may_need_others,
    lifetimes::last_words_are_kept,
    updates::secrets_and_labels_reach_a_running_pod,
    updates::a_tag_that_has_moved_is_followed_as_the_policy_says,
    updates::a_volume_is_given_to_the_group_as_the_policy_says,
    grpc::a_server_in_a_container_is_asked,
    limits::pods_that_write_more_than_they_may_are_driven_out,
    limits::a_log_never_takes_more_than_its_room,
    limits::huge_pages_are_limited_or_refused_where_there_are_none,
    pressure::who_uses_most_over_its_request_goes_first,
    pressure::a_full_disk_costs_logs_of_ended_pods_then_the_pod_that_wrote_most,
    pressure::images_that_nobody_uses_make_room,
    kernel_refusals::a_value_that_the_kernel_refuses_concerns_its_container_alone,
    kernel_refusals::a_mount_that_the_kernel_refuses_is_told_and_tried_again,
    kernel_refusals::a_node_that_can_make_no_control_groups_says_so_until_it_can,
    kernel_refusals::groups_that_cannot_be_removed_keep_their_pod_alone,
    faults::who_forks_eats_or_talks_without_end_harms_nobody_else,
    faults::a_shim_that_is_stopped_is_named_and_keeps_nothing_alive,
    faults::a_pod_whose_record_cannot_be_stored_waits_and_the_node_is_not_ready,
    faults::a_registry_that_is_down_or_silent_holds_up_nobody_else,
    hostile_images::what_is_wrong_with_an_image_is_told_at_its_pod,
    hostile_images::a_slow_registry_leaves_turns_to_others,
    hostile_images::a_full_disk_is_told_and_the_pull_goes_on_when_there_is_room,
];

/// Time limit of a test.
const TEST_MAX: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(first) if first == "shim" => return container_runtime::shim::main(args),
        Some(first) if first == grpc::SERVE => return grpc::serve(),
        _ => {}
    }
    let names: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    if names.is_empty() {
        return run_modules();
    }
    let mut failed = 0;
    for (name, test) in TESTS {
        // With `::`, the argument is the start of the name: `images::` must not match a module whose name
        // ends with `images`.
        let is_meant = |part: &String| match part.ends_with("::") {
            true => name.starts_with(part.as_str()),
            false => name.contains(part.as_str()),
        };
        if !names.iter().any(is_meant) {
            continue;
        }
        let begun = Instant::now();
        let passed = run(*test);
        let verdict = if passed { "ok" } else { "FAILED" };
        println!(
            "test {name} ... {verdict} ({:.1} s)",
            begun.elapsed().as_secs_f32()
        );
        failed += usize::from(!passed);
    }
    harness::remove_shared();
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Maximum number of concurrent processes: tests mostly wait.
const PROCESSES: usize = 3;

/// Runs each module in a separate process. The output of a module is printed when it exits. The output of
/// failed modules is printed again at the end.
fn run_modules() -> ExitCode {
    let module = |name: &'static str| name.split_once("::").map_or(name, |(module, _)| module);
    let mut modules: Vec<&str> = TESTS.iter().map(|(name, _)| module(name)).collect();
    modules.dedup();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some(module) = modules.get(next.fetch_add(1, Ordering::Relaxed)) {
            let program = std::env::current_exe().unwrap();
            // The output goes to a file and not to a pipe: a process that a test leaves behind would keep a
            // pipe open.
            let mut file = tempfile::tempfile().unwrap();
            let status = Command::new(program)
                .arg(format!("{module}::"))
                .stdout(file.try_clone().unwrap())
                .stderr(file.try_clone().unwrap())
                .status()
                .unwrap();
            let mut output = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut output).unwrap();
            let output = String::from_utf8_lossy(&output).into_owned();
            print!("{output}");
            if !status.success() {
                println!("module {module} failed: {status}");
                failed.lock().unwrap().push((module, output));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..PROCESSES {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner().unwrap();
    for (module, output) in &failed {
        println!("module {module} failed:\n{output}");
    }
    match failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn run(test: Test) -> bool {
    let run = std::thread::spawn(move || {
        let executor = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        executor.block_on(async {
            tokio::time::timeout(TEST_MAX, test()).await.unwrap();
        });
    });
    run.join().is_ok()
}
