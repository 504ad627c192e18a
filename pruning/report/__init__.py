"""One page per run: what was asked, what it won, what it cost."""

from pruning.report.contents import Headline, ModelReport, RunReport, SpeedupKind, StageReport, TargetReport, VariantReport, length_of
from pruning.report.page import JSON_NAME, aligned, page_environment, read_report, templates, to_html, to_markdown, to_text, write_report
from pruning.report.wording import duration, explanation, metric_name, summary

__all__ = [
    "JSON_NAME",
    "Headline",
    "ModelReport",
    "RunReport",
    "SpeedupKind",
    "StageReport",
    "TargetReport",
    "VariantReport",
    "aligned",
    "duration",
    "explanation",
    "length_of",
    "metric_name",
    "page_environment",
    "read_report",
    "summary",
    "templates",
    "to_html",
    "to_markdown",
    "to_text",
    "write_report",
]
