"""What the five systems did, row by row, and the test that does each of them here.

The first sentence of a test's docstring is its row; `test_rows` holds both against each other.
"""

ROWS: dict[str, dict[str, str]] = {
    "test_s1_pbft_ci": {
        "test_start_client": "./scripts/startClient.sh starts the client, stopped by hand",
        "test_start_network": "./startNetwork.sh starts 4 nodes with the example configuration",
        "test_stop_network": "./stopNetwork.sh ends exactly the processes that it started",
        "test_webhook": "curl -d a branch to /webHook, with or without a JSON content type",
        "test_example_branches": "Example branches: master (exit 0), feature (exit not 0), others",
        "test_equal_exit_codes": "The client accepts f+1 equal exit codes of distinct replicas",
        "test_logs": "Per-node logs ./log/node0.log and so on, ./log/client.log",
        "test_flags": "The flags of client/index.py and node/index.py",
        "test_sizes": "3f+1 nodes, f from their number",
    },
    "test_s2_stdin_client": {
        "test_links": "Replicas connect to each other and to the client, identified by public keys",
        "test_append": "The replicated state is a string; the client reads from stdin and signs",
        "test_pre_prepare_clauses": "PRE-PREPARE is accepted only if, clause by clause; so PREPARE",
        "test_one_command": "One command starts all",
    },
    "test_s3_bsmr": {
        "test_rounds": "No client: the primary proposes a number each round, by PBFT",
        "test_bsmr": "BSMR: the leader takes the minimum and announces it; nobody compares",
        "test_equivocation": "Node 0 equivocates: BSMR forks, PBFT changes the view and goes on",
        "test_trace_and_picture": "Four terminals that show the messages between the nodes",
    },
    "test_s4_http_interface": {
        "test_status": "GET /pbft/status: primary, is_primary, view, sequence, f, quorum_size",
        "test_request": "POST /pbft/request: an operation; answers that consensus started",
        "test_message": "POST /pbft/message: a protocol message",
        "test_simulate_byzantine": "POST /pbft/simulate-byzantine; the status then lists it",
        "test_suspicious": "A replica whose digest differs is marked SUSPICIOUS",
        "test_messages_as_json": "Messages as JSON: type, view, sequence, digest, node, signature",
        "test_three_nodes": "Works with 3 nodes and f = 0",
        "test_view_change_and_raft": "View change; certificates; a comparison of PBFT with Raft",
    },
    "test_s5_see_and_play": {
        "test_diagrams": "A simple way to visualise and interact with PBFT, phase by phase",
        "test_blocks": "A committed request becomes a block of a local chain on each node",
        "test_tolerance": "Tolerance (n-1)/3, deterministic execution",
    },
}


# A row whose test needs containers: where it is.
ELSEWHERE: dict[str, str] = {
    "Each node builds the repository's Dockerfile and runs the image": (
        "tests/processes/test_main_job.py::test_the_verdict_is_right"
    ),
}
