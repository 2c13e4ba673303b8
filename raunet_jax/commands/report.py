"""Rebuilds the figures and the page of a run, or compares its scores with another run's."""

from raunet_jax.commands.request import Request


def run(request: Request) -> int:
    from raunet_jax.report.comparison import write_comparison
    from raunet_jax.report.page import write_report

    page = write_comparison(request.run, request.compare) if request.compare else write_report(request.run)
    print(f"page: {page}")
    return 0
