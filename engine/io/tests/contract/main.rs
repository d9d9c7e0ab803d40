//! What a driver promises, whichever it is.
//!
//! Each promise is a function of a [`Host`](host::Host), which knows how one driver runs shards. The list at the end makes a
//! test of each for each driver; another driver joins by a variant of `Host` and one line there.

mod files;
mod host;
mod mailboxes;
mod streams;
mod tasks;

/// Makes a test of each promise for one driver.
macro_rules! kept_by {
    ($driver:ident, $host:expr; $($area:ident: $($promise:ident),* $(,)?;)*) => {
        mod $driver {
            $(mod $area {
                $(#[test]
                fn $promise() {
                    crate::$area::$promise($host);
                })*
            })*
        }
    };
}

macro_rules! promises {
    ($($list:tt)*) => {
        kept_by! { uring, crate::host::Host::Uring; $($list)* }
        kept_by! { posix, crate::host::Host::Posix; $($list)* }
        kept_by! { sim, crate::host::Host::Sim; $($list)* }
    };
}

promises! {
    files:
        write_then_read_returns_the_bytes,
        write_of_more_pieces_than_a_request_takes_is_whole,
        write_over_the_middle_leaves_the_rest,
        write_of_nothing_succeeds,
        synchronous_write_is_whole,
        read_across_the_end_is_short,
        read_of_a_hole_gives_zeros,
        direct_file_takes_aligned_requests,
        direct_read_across_an_unaligned_end_is_short,
        many_requests_at_once_do_not_mix,
        missing_file_error_names_path_and_errno,
        write_to_a_read_only_file_error_names_the_position,
        create_new_refuses_an_existing_file,
        truncate_empties_the_file,
        rename_replaces_its_target,
        removed_file_stays_readable_while_open,
        directory_is_listed_in_order_with_kinds,
        directory_errors_have_the_kind_of_the_system_call,
        create_dir_all_takes_what_exists,
        replaced_file_has_the_new_content,
        read_file_refuses_what_is_too_long,
        sync_succeeds_on_files_and_directories,
        allocate_extends_with_zeros,
        set_len_cuts_and_extends,
        metadata_tells_length_and_kind,
        space_is_plausible,
        alignment_is_a_power_of_two_of_at_least_4096,
        lock_excludes_another_description_until_it_is_dropped,
        dropped_requests_leave_the_file_usable,
        memory_of_a_dropped_read_is_not_reused_too_early;
    tasks:
        spawned_task_runs_later_and_gives_its_output,
        dropped_task_is_cancelled,
        detached_task_runs_on,
        yield_lets_other_tasks_run,
        sleeps_end_in_order_of_their_deadlines,
        sleep_takes_at_least_its_time,
        timeout_ends_what_takes_too_long,
        timeout_lets_pass_what_is_done,
        dropped_sleep_does_not_disturb_others,
        random_numbers_differ,
        panic_of_a_task_surfaces,
        end_drops_tasks_that_wait,
        end_waits_for_requests_in_flight;
    mailboxes:
        shards_wake_each_other,
        many_senders_lose_nothing,
        reply_crosses_shards,
        end_of_a_shard_closes_its_mailbox;
    streams:
        both_ends_know_their_addresses,
        echo_returns_the_bytes,
        end_of_the_peer_is_the_end_of_the_stream,
        end_of_the_peer_is_told_before_what_came_is_received,
        connection_to_nobody_is_refused,
        vectored_send_keeps_the_order_of_pieces,
        slow_receiver_holds_the_sender_back,
        receives_of_both_kinds_interleave_exactly,
        receive_into_appends_to_the_buffer,
        receive_into_reports_an_early_end,
        large_frame_is_received_whole,
        dropped_receives_lose_nothing,
        dropped_accepts_lose_no_connection,
        both_directions_work_at_once,
        many_connections_are_told_apart,
        sent_file_arrives_exactly,
        sent_file_that_ends_early_is_an_error,
        shutdown_ends_a_waiting_receive_and_the_peer,
        send_to_a_peer_that_went_fails,
        dropped_listener_frees_its_port,
        received_bytes_outlive_their_stream,
        memory_of_a_dropped_receive_is_not_reused_too_early;
}
