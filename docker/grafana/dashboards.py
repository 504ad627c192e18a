"""Grafana's dashboards, as tables of panels: `python docker/grafana/dashboards.py` writes dashboards/*.json again, which Grafana reads.

Prometheus and the service's metrics are in docker/prometheus and service/metrics.py.
"""

from pathlib import Path

from panels import Dashboard, Panel, Variable, text

FOLDER = Path(__file__).parent / "dashboards"
TASKS = 'route=~"/qa|/classify|/summarize"'
CHOSEN = 'variant=~"$variant"'
BASELINE = 'variant="$baseline"'
INPUT = f'kind="input",{CHOSEN}'
PADDED = f'kind="padded",{CHOSEN}'
DURATION = "secateur_request_duration_seconds"
INFERENCE = "secateur_inference_duration_seconds"
PHASES = ("queue", "tokenize", "inference", "postprocess")


def rate(metric: str, selector: str = "", by: str = "") -> str:
    """Per second, summed, by labels."""
    total = f"sum by ({by}) " if by else "sum"
    return f"{total}(rate({metric}{{{selector}}}[$__rate_interval]))"


def quantile(share: float, metric: str, selector: str = "", by: str = "") -> str:
    """A percentile of a histogram, by labels."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', selector, labels)})"


def mean(metric: str, selector: str = "", by: str = "") -> str:
    """The mean of a histogram, by labels."""
    return f"{rate(f'{metric}_sum', selector, by)} / {rate(f'{metric}_count', selector, by)}"


def share_of_answers(codes: str) -> str:
    """Share of answers whose status matches; 0 where no answer ever had it, and no series says so."""
    found, everything = (rate("secateur_requests_total", selector) for selector in (f'{TASKS},code=~"{codes}"', TASKS))
    return f"({found} or 0 * {everything}) / {everything}"


def or_zero(query: str) -> str:
    """0 where there is nothing, as nothing has been generated or no model that is served generates."""
    return f"({query}) >= 0 or on () vector(0)"


def histogram_of(phase: str) -> str:
    """A histogram's name."""
    return f"secateur_{phase}_duration_seconds"


BY_VARIANT = "task, variant"
NAMED = "{{task}} {{variant}}"
VARIANTS = Variable("variant", "variant", "secateur_model_info")
SERVICE_TASK = 'label_replace({}, "task", "$1", "route", "/(.*)")'

OVERVIEW = Dashboard(
    "overview",
    "Overview",
    (
        Panel("Ready", "Replicas that requests should go to.", "short", (("sum(secateur_ready)", ""),), "stat", 4, 4),
        Panel("Requests", "Per second, of all tasks.", "reqps", ((rate("secateur_requests_total", TASKS), ""),), "stat", 4, 4),
        Panel("Refused or too late", "503 and 504.", "percentunit", ((share_of_answers("503|504"), ""),), "stat", 4, 4),
        Panel("Failed", "500: the service's own fault.", "percentunit", ((share_of_answers("500"), ""),), "stat", 4, 4),
        Panel("p99", "Of all answers.", "s", ((quantile(0.99, DURATION, TASKS), ""),), "stat", 4, 4),
        Panel("Alerts", "That are firing now.", "short", (('count(ALERTS{alertstate="firing"}) or vector(0)', ""),), "stat", 4, 4),
        Panel(
            "Rate by task and variant",
            "Requests per second; those refused before a variant was chosen have none.",
            "reqps",
            ((rate("secateur_requests_total", f'{TASKS},variant=~"$variant|"', "route, variant"), "{{route}} {{variant}}"),),
            stacked=True,
        ),
        Panel(
            "Errors by task, variant and status",
            "Answers other than 200, per second: 4xx is the client's, 500 ours, 503 and 504 too much at once; without a variant where none "
            "was chosen.",
            "reqps",
            (
                (
                    rate("secateur_requests_total", f'{TASKS},code!="200",variant=~"$variant|"', "route, variant, code"),
                    "{{route}} {{variant}} {{code}}",
                ),
            ),
            empty="none",
        ),
        Panel(
            "Duration by task",
            "From the first byte of a request to the last of its answer.",
            "s",
            tuple((quantile(share, DURATION, TASKS, "route"), f"{{{{route}}}} p{100 * share:g}") for share in (0.5, 0.9, 0.99)),
        ),
        Panel(
            "Duration by task and variant",
            "The same by who answered: half of the requests are faster than p50, all but one in a hundred than p99.",
            "s",
            tuple(
                (quantile(share, DURATION, f"{TASKS},{CHOSEN}", "route, variant"), f"{{{{route}}}} {{{{variant}}}} p{100 * share:g}")
                for share in (0.5, 0.99)
            ),
        ),
        Panel(
            "Shed by reason",
            "Requests refused or dropped before they ran.",
            "reqps",
            ((rate("secateur_shed_total", "", "reason"), "{{reason}}"),),
            empty="none",
        ),
        Panel(
            "Errors by kind",
            "Problem documents, by error_type.",
            "reqps",
            ((rate("secateur_errors_total", "", "type"), "{{type}}"),),
            empty="none",
        ),
    ),
    (VARIANTS,),
)

SIDE_BY_SIDE = Dashboard(
    "variants",
    "Variants side by side",
    (
        Panel(
            "Accuracy",
            "Measured offline, in percent, with the data that the manifest names.",
            "none",
            ((f"max by (model, variant, metric, dataset) (secateur_variant_accuracy{{{CHOSEN}}})", ""),),
            "table",
        ),
        Panel(
            "Served",
            "Runtime and precision of each variant.",
            "short",
            ((f"count by (model, variant, runtime, precision) (secateur_model_info{{{CHOSEN}}})", ""),),
            "table",
        ),
        Panel(
            "Speed-up of the runtime over $baseline",
            "Mean time in the runtime of the baseline over that of each: of texts as they come, so compare like with like.",
            "suffix:x",
            (
                (
                    f"({mean(INFERENCE, BASELINE, 'task')}) / on (task) group_right () ({mean(INFERENCE, CHOSEN, BY_VARIANT)})",
                    NAMED,
                ),
            ),
        ),
        Panel(
            "Texts by variant",
            "Answered, per second.",
            "ops",
            ((rate("secateur_inference_duration_seconds_count", CHOSEN, BY_VARIANT), NAMED),),
        ),
        Panel(
            "Time in the runtime",
            "p50 and p99, all windows of a text.",
            "s",
            tuple((quantile(share, INFERENCE, CHOSEN, BY_VARIANT), f"{NAMED} p{100 * share:g}") for share in (0.5, 0.99)),
        ),
        Panel(
            "Time in the queue",
            "p50 and p99.",
            "s",
            tuple(
                (quantile(share, "secateur_queue_duration_seconds", CHOSEN, BY_VARIANT), f"{NAMED} p{100 * share:g}")
                for share in (0.5, 0.99)
            ),
        ),
        Panel(
            "Where the time goes",
            "Mean of each phase of a text.",
            "s",
            tuple((mean(histogram_of(phase), CHOSEN, BY_VARIANT), f"{NAMED} {phase}") for phase in PHASES),
            "bargauge",
            height=12,
        ),
        Panel(
            "Runtime for a thousand tokens",
            "Of texts without their padding.",
            "s",
            (
                (
                    f"1000 * {rate('secateur_inference_duration_seconds_sum', CHOSEN, BY_VARIANT)} / "
                    f"{rate('secateur_tokens_total', INPUT, BY_VARIANT)}",
                    NAMED,
                ),
            ),
            height=12,
        ),
    ),
    (VARIANTS, Variable("baseline", "variant", "secateur_model_info", multiple=False, first="dense")),
)


def middle_and_tail(metric: str) -> tuple[tuple[str, str], ...]:
    """Median and 99th percentile of a duration by variant, 0 where there is none yet."""
    return tuple((or_zero(quantile(share, metric, CHOSEN, BY_VARIANT)), f"{NAMED} p{100 * share:g}") for share in (0.5, 0.99))


ENGINE = Dashboard(
    "engine",
    "Engine",
    (
        Panel(
            "Queue",
            "Texts that wait or run, and windows that wait.",
            "short",
            (("sum(secateur_queue_depth)", "texts"), ("sum(secateur_queue_rows)", "windows")),
        ),
        Panel(
            "Tokens waiting",
            "What to scale out on.",
            "short",
            (("sum(secateur_queue_tokens)", "tokens"), ("sum(secateur_inflight)", "requests in flight")),
        ),
        Panel(
            "Waiting",
            "Time in the queue.",
            "s",
            tuple((quantile(share, "secateur_queue_duration_seconds", CHOSEN), f"p{100 * share:g}") for share in (0.5, 0.9, 0.99)),
        ),
        Panel(
            "Runner busy",
            "Share of the time in which a runner was at work; near 1 the queue grows.",
            "percentunit",
            ((f"{rate('secateur_runner_busy_seconds_total', '', 'instance')} / sum by (instance) (secateur_runners)", "{{instance}}"),),
        ),
        Panel(
            "Tokens",
            "Computed per second, with padding.",
            "ops",
            ((rate("secateur_tokens_total", PADDED, BY_VARIANT), NAMED),),
            stacked=True,
        ),
        Panel(
            "Padding",
            "Share of computed tokens that are padding.",
            "percentunit",
            (
                (
                    f"1 - {rate('secateur_tokens_total', INPUT, BY_VARIANT)} / {rate('secateur_tokens_total', PADDED, BY_VARIANT)}",
                    NAMED,
                ),
            ),
        ),
        Panel(
            "Rows of a call",
            "8-bit rows run alone, so that neighbours do not change answers.",
            "short",
            ((mean("secateur_batch_rows"), "mean"), (quantile(0.99, "secateur_batch_rows"), "p99")),
        ),
        Panel(
            "Tokens of a call",
            "With padding.",
            "short",
            ((mean("secateur_batch_tokens"), "mean"), (quantile(0.99, "secateur_batch_tokens"), "p99")),
        ),
        Panel(
            "Shed by reason",
            "Requests refused or dropped before they ran.",
            "reqps",
            ((rate("secateur_shed_total", "", "reason"), "{{reason}}"),),
            empty="none",
        ),
        Panel(
            "Runners",
            "Calls at once, and how many runners were stuck or died.",
            "short",
            (("sum(secateur_runners)", "runners"), ("sum(secateur_runners_replaced_total)", "replaced")),
        ),
        Panel(
            "Decoding",
            "Of models that generate: sequences of the next step, each beam one; texts that they belong to; texts that wait for room.",
            "short",
            (
                (or_zero("sum(secateur_decoder_rows)"), "sequences"),
                (or_zero("sum(secateur_decoder_active)"), "texts"),
                (or_zero("sum(secateur_decoder_waiting)"), "waiting"),
            ),
        ),
        Panel(
            "Generated tokens",
            "Per second, counted at each step.",
            "ops",
            ((or_zero(rate("secateur_tokens_total", f'kind="generated",{CHOSEN}', BY_VARIANT)), NAMED),),
            stacked=True,
        ),
        Panel(
            "Decode step",
            "One token of every sequence that is decoded: the more there are, the longer it takes.",
            "s",
            middle_and_tail("secateur_decode_step_duration_seconds"),
        ),
        Panel(
            "First token",
            "From a streamed request to its first token.",
            "s",
            middle_and_tail("secateur_first_token_duration_seconds"),
        ),
    ),
    (VARIANTS,),
)

LOAD_TEST = Dashboard(
    "loadtest",
    "Load test",
    (
        Panel(
            "Rate",
            "Requests that were due, and right answers, as users count them; and what the service answered.",
            "reqps",
            (
                (rate("secateur_loadtest_due_total", CHOSEN, BY_VARIANT), f"due {NAMED}"),
                (rate("secateur_loadtest_requests_total", f'{CHOSEN},outcome="ok"', BY_VARIANT), f"right {NAMED}"),
                (
                    SERVICE_TASK.format(rate("secateur_requests_total", f'{TASKS},{CHOSEN},code="200"', "route, variant")),
                    f"service {NAMED}",
                ),
            ),
        ),
        Panel(
            "Outcomes",
            "Right, wrong or lost, or the status where that is not 200.",
            "reqps",
            ((rate("secateur_loadtest_requests_total", CHOSEN, f"{BY_VARIANT}, outcome"), f"{NAMED} {{{{outcome}}}}"),),
            stacked=True,
        ),
        Panel(
            "p99, users beside the service",
            "Users count from when a request was due; where that is more, it waited for a connection.",
            "s",
            (
                (quantile(0.99, "secateur_loadtest_request_duration_seconds", CHOSEN, BY_VARIANT), f"users {NAMED}"),
                (SERVICE_TASK.format(quantile(0.99, DURATION, f"{TASKS},{CHOSEN}", "route, variant")), f"service {NAMED}"),
            ),
        ),
        Panel(
            "p50, users beside the service",
            "The same for half of the requests.",
            "s",
            (
                (quantile(0.5, "secateur_loadtest_request_duration_seconds", CHOSEN, BY_VARIANT), f"users {NAMED}"),
                (SERVICE_TASK.format(quantile(0.5, DURATION, f"{TASKS},{CHOSEN}", "route, variant")), f"service {NAMED}"),
            ),
        ),
        Panel(
            "On the way",
            "Requests that users have sent, beside those that the service has.",
            "short",
            ((f"sum by ({BY_VARIANT}) (secateur_loadtest_inflight{{{CHOSEN}}})", f"users {NAMED}"), ("sum(secateur_inflight)", "service")),
        ),
        Panel(
            "Sent late",
            "How long after they were due: over 5 ms (p99) a measurement is void.",
            "s",
            tuple((quantile(share, "secateur_loadtest_lag_seconds"), f"p{100 * share:g}") for share in (0.5, 0.99)),
        ),
        Panel(
            "Runner busy",
            "Share of the service's runners at work.",
            "percentunit",
            ((f"{rate('secateur_runner_busy_seconds_total')} / sum(secateur_runners)", "busy"),),
        ),
        Panel("Tokens waiting", "In the service.", "short", (("sum(secateur_queue_tokens)", "tokens"),)),
    ),
    (Variable("variant", "variant", "secateur_loadtest_due_total"),),
)

SERVICE_JOB = 'job="secateur"'
RESOURCES = Dashboard(
    "resources",
    "Resources",
    (
        Panel(
            "Processor",
            "Cores' worth of time, beside the calls that may run at once.",
            "short",
            (
                (f"rate(process_cpu_seconds_total{{{SERVICE_JOB}}}[$__rate_interval])", "{{instance}}"),
                ("secateur_runners", "{{instance}} runners"),
            ),
        ),
        Panel(
            "Processor for a request",
            "Of all work and all tasks.",
            "s",
            ((f"{rate('process_cpu_seconds_total', SERVICE_JOB)} / {rate('secateur_requests_total', TASKS)}", "a request"),),
        ),
        Panel("Memory", "Resident.", "bytes", ((f"process_resident_memory_bytes{{{SERVICE_JOB}}}", "{{instance}}"),)),
        Panel(
            "Memory, growth in an hour",
            "From the slope of the last hour; a loaded service should stay near 0.",
            "bytes",
            ((f"3600 * deriv(process_resident_memory_bytes{{{SERVICE_JOB}}}[1h])", "{{instance}}"),),
        ),
        Panel(
            "Open files",
            "Connections count; beside the limit.",
            "short",
            ((f"process_open_fds{{{SERVICE_JOB}}}", "{{instance}}"), (f"process_max_fds{{{SERVICE_JOB}}}", "{{instance}} limit")),
        ),
        Panel(
            "Up for", "Since the process was started.", "s", ((f"time() - process_start_time_seconds{{{SERVICE_JOB}}}", "{{instance}}"),)
        ),
        Panel("Prometheus: memory", "Resident.", "bytes", (('process_resident_memory_bytes{job="prometheus"}', "prometheus"),)),
        Panel("Prometheus: scrapes", "How long each takes.", "s", (("scrape_duration_seconds", "{{job}} {{instance}}"),)),
    ),
)

DASHBOARDS = (OVERVIEW, SIDE_BY_SIDE, ENGINE, LOAD_TEST, RESOURCES)


if __name__ == "__main__":
    for each in DASHBOARDS:
        (FOLDER / f"{each.name}.json").write_text(text(each), encoding="utf-8")
