"""The names of all fault switches, and what each does. `python -m gpucloudsim --list-faults` prints them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What a switch does. `base` and `base_arg` make it a shorthand for a general one."""

    doc: str
    base: str = ""
    base_arg: str = ""


KINDS: dict[str, Kind] = {
    # Any endpoint.
    "hang_before": Kind("ENDPOINT: never answers; nothing was done"),
    "hang_after": Kind("ENDPOINT: does the work, then never answers"),
    "reset_before": Kind("ENDPOINT: the connection is cut; nothing was done"),
    "reset_after": Kind("ENDPOINT: does the work, then the connection is cut"),
    "status_before": Kind(
        "ENDPOINT:CODE: answers with this status and a proxy's HTML page; nothing was done"
    ),
    "status_after": Kind(
        "ENDPOINT:CODE: does the work, then answers with this status and a proxy's HTML page"
    ),
    "throttle": Kind("ENDPOINT[:json|detail|text[:RETRY_AFTER]]: 429 in one of the three bodies seen"),
    "html": Kind("ENDPOINT: 200 with a web page in place of JSON"),
    "truncate": Kind("ENDPOINT: does the work, then half of the JSON arrives"),
    "empty_object": Kind("ENDPOINT: 200 with {}"),
    "empty_array": Kind("ENDPOINT: 200 with []"),
    "refuse": Kind("ENDPOINT[:ERROR]: 200 with success:false and an error code; nothing was done"),
    "slow": Kind("ENDPOINT:SECONDS: answers so much later"),
    "auth_error": Kind("ENDPOINT: the key is not known (404 auth_error)"),
    # Create.
    "create_hang_after": Kind(
        "create: the machine is rented, the answer never comes", "hang_after", "create"
    ),
    "create_hang_before": Kind("create: no answer, nothing rented", "hang_before", "create"),
    "create_502_after": Kind(
        "create: the machine is rented, a proxy answers 502", "status_after", "create:502"
    ),
    "create_500_after": Kind(
        "create: the machine is rented, the server answers 500", "status_after", "create:500"
    ),
    "create_500_before": Kind("create: 500 and nothing rented", "status_before", "create:500"),
    "create_reset_after": Kind(
        "create: the machine is rented, the connection is cut", "reset_after", "create"
    ),
    "create_truncated": Kind(
        "create: the machine is rented, half of the answer arrives", "truncate", "create"
    ),
    "create_429": Kind("create: 429 with a `detail` body", "throttle", "create:detail"),
    "create_429_json": Kind("create: 429 with an `error` body", "throttle", "create:json"),
    "create_429_text": Kind("create: 429 with plain text", "throttle", "create:text"),
    "create_false_with_contract": Kind("create: success:false, yet new_contract is there and bills its disk"),
    "create_false_without_contract": Kind("create: 200 success:false, nothing rented"),
    "create_insufficient_credit": Kind(
        "create[=HTTP status, default 200]: insufficient_credit, nothing rented"
    ),
    "create_no_such_ask": Kind("create[=410|404|400]: the offer is gone"),
    "create_unscheduled": Kind(
        "create: the contract exists, the container is never scheduled and stands stopped"
    ),
    # Lists and reads.
    "list_empty_object": Kind("list: 200 with {}", "empty_object", "list"),
    "list_empty_array": Kind("list: 200 with []", "empty_array", "list"),
    "list_refused": Kind("list: 200 success:false without instances", "refuse", "list:internal_error"),
    "list_html": Kind("list: 200 with a web page", "html", "list"),
    "list_truncated": Kind("list: truncated JSON", "truncate", "list"),
    "list_retired": Kind("list: the v1 list answers 410 deprecated_endpoint as v0 does"),
    "list_empty": Kind("list: 200 success:true with no instances, though there are some"),
    "list_page_error": Kind("list: the first page comes, the second answers 500"),
    "list_short": Kind("list: the first page comes and claims to be the last"),
    "list_bad_total": Kind("list: total_instances says more than the rows show"),
    "lag_create": Kind("N: a new instance is missing from the next N reads that would show it"),
    "lag_destroy": Kind("N: a destroyed instance still shows in the next N reads"),
    "show_null": Kind('show: {"instances": null} though the instance exists'),
    "fields_null": Kind("instances: start_date, extra_env, ports, label and others are null"),
    "fields_wrong_type": Kind("instances: numbers arrive as strings, strings as numbers"),
    "fields_extra": Kind("instances and offers carry fields nobody has documented"),
    "status_unknown": Kind("WORD: actual_status is a word nobody has documented"),
    "start_refused": Kind(
        "queued[:SECONDS]|reverted: start answers resources_unavailable; a queued one comes up later"
    ),
    "logs_never": Kind("logs: the result URL answers 404 for ever"),
    "credit_null": Kind("user: credit is null"),
    "clock_skew": Kind("SECONDS: dates in answers are shifted by so much"),
    "cur_state_stopped": Kind("instances: cur_state says `stopped` while the box loads or runs (Vast)"),
    "search_quota": Kind("search: 429 search_quota_exceeded, the quota of the day is used up (Vast)"),
    "rate_limits": Kind("the vendor's documented quotas hold, as with --rate-limits; one count per call"),
    # The market and the account.
    "stock_gone": Kind("search, create: nothing is on offer, what was listed is gone; one count per call"),
    "market_jump": Kind("FACTOR: right after this search all prices are so many times what it said"),
    "billing_lag": Kind("SECONDS: balance and charges do not know yet what the last so many seconds cost"),
    "credit_gone": Kind("the account's credit is used up at once; one count each time"),
    # Running machines; each is drawn for once a second.
    "host_loss": Kind("[SECONDS]: the host of a running machine goes offline, for ever or for so long"),
    "preempt": Kind(
        "[SECONDS]: a running spot machine is outbid, for ever or for so long; a RunPod spot pod is taken back"
    ),
    "container_dies": Kind("the container of a running machine ends by itself; the contract stands"),
    "expire": Kind("the rental of a running machine ends now: it is stopped and does not start again"),
    "machine_taken": Kind("the vendor ends the contract of a running machine: it is gone with its disk"),
    # RunPod.
    "create_capacity": Kind("create: 400 and the text that there are no instances; nothing was rented"),
    "create_402": Kind("create: 402 Insufficient balance; nothing was rented"),
    "no_cmd_field": Kind("create: cmd and entrypoint are unknown fields (422), as in the published file"),
    "forbidden": Kind("ENDPOINT: 403 access denied, as for a key of narrow scope"),
    "list_short_pages": Kind("list: pages hold half of what was asked, and say that more follow"),
    "list_null": Kind('list: {"pods": null}'),
    "no_pagination": Kind("list: no pagination object, as in older deployments"),
    "stale_runtime": Kind("pods: an EXITED pod still shows its last runtime and ports"),
    "show_terminated": Kind("show: a terminated pod is shown as TERMINATED, not 404"),
    "no_direct_ssh": Kind("create: the pod never gets a public port for SSH"),
    "start_zero_gpus": Kind("start: the pod comes back without GPUs"),
    "action_noop": Kind("state: 200, and nothing was done"),
    "action_204": Kind("state: 204 without a body"),
    "catalog_top_none": Kind("search: top-level availability NONE while data centres have stock"),
    "billing_null": Kind("charges: records is null"),
    "logs_cut": Kind("logs: the stream breaks off after a line"),
    "graphql_gone": Kind("graphql: 410, retired"),
    "balance_terminates": Kind("at the end of the credit pods are terminated, not stopped"),
    # Machines and boxes; drawn when an instance is created.
    "boot_stuck": Kind("the box loads for ever"),
    "boot_oci_error": Kind(
        "the container cannot be created (OCI runtime error); the intent flips to stopped"
    ),
    "boot_image_missing": Kind("the image cannot be pulled; the intent flips to stopped"),
    "boot_strange": Kind("boots, reporting unknown status words on the way"),
    "boot_slow": Kind("FACTOR: boots so many times slower"),
    "ssh_refused": Kind("SECONDS: SSH refuses connections so long after `running`"),
    "ssh_denied": Kind("N: so many authentications fail before the keys are known"),
    "ssh_never": Kind("the SSH port accepts connections and says nothing"),
    "host_key_change": Kind("the host key changes at every start"),
    "port_change": Kind("the SSH ports change at every start"),
    "no_python": Kind("the box has no python on its PATH"),
    "disk_full": Kind("BYTES: the box's disk holds so much (see gpucloudsim.boxes.files)"),
    "smi": Kind("missing|na|err|mismatch|nodriver|nodevices: what nvidia-smi of the box is like"),
    "crash_loop": Kind("[SECONDS]: process 1 of the container ends after so long, again and again (RunPod)"),
    "env_in_ssh": Kind("the container's environment is present in SSH sessions"),
}
