"""The table of contents: every trigger, orchestrator and activity of the app, registered by name.

A registered name is a promise to the instances in flight, which are found by it: it does not change.
"""

import os
from collections.abc import Awaitable, Callable
from typing import Any

import azure.durable_functions as df
import azure.functions as func
from azure.durable_functions import worker

from activities.approval import check_answers, post_outcome, send_approval_request, send_mail
from activities.guarded_call import call_api
from activities.pause import apply_pause, cancel_paused, send_pause_mail
from activities.purchase_order import cancel_order, place_order
from activities.records import record
from activities.signup import create_account, erase_signup, plan_reminder, send_signup_mail
from activities.workflow import send_workflow_mail
from entities.pause import pause
from entities.rate_limit import rate_limit
from orchestrators.approval import approval
from orchestrators.event_payload import EventConverter
from orchestrators.guarded_call import guarded_call
from orchestrators.manual_intervention import manual_intervention
from orchestrators.pausable import pausable
from orchestrators.pause_due import pause_due
from orchestrators.purchase_order import purchase_order
from orchestrators.refund import refund
from orchestrators.signup import signup
from orchestrators.workflow import workflow
from services.api_call import check_apis
from services.authentication import auth_mode, check_identity
from services.callback import check_callback_key
from services.identity import Permission
from services.links import check_links
from services.mail import check_mail
from services.quiet_hours import check_quiet_hours
from services.record_store import get_record_store
from settings import get_settings
from triggers.approval import (
    decide_approval,
    delegate_approval,
    extend_approval,
    get_approval,
    remind_approval,
    revise_approval,
    start_approval,
    withdraw_approval,
)
from triggers.audit import erase_audit, get_audit, verify_audit
from triggers.channels import publish_to_internal_channel, signal_workflow
from triggers.execution_lists import list_executions, list_paused
from triggers.executions import cancel_execution, get_execution, pause_execution, resume_execution
from triggers.gate_page import act_on_gate_page, show_gate_page
from triggers.guarded_call import (
    edit_intervention,
    fail_intervention,
    get_intervention,
    list_interventions,
    resolve_interventions,
    retry_intervention,
    skip_intervention,
    start_intervention,
)
from triggers.manual_intervention import get_manual_intervention, start_manual_intervention
from triggers.outbox import get_outbox_mail, list_outbox
from triggers.pages import PageTrigger, answers_pages
from triggers.purchase_order import decide_purchase_order, get_purchase_order, start_purchase_order
from triggers.purge import check_retention, purge_instances
from triggers.reconcile import reconcile_records
from triggers.refund import (
    get_refund,
    make_refund_ready,
    signal_microservice,
    start_microservice,
    start_refund,
    swap_microservice,
)
from triggers.signup import describe_signup, get_signup, submit_signup, verify_signup
from triggers.signup_link import show_stop_page, stop_reminders_on_page
from triggers.signup_page import (
    change_email_on_page,
    confirm_on_page,
    resend_on_page,
    show_confirm_page,
    show_signup_page,
    submit_signup_page,
)
from triggers.static_files import get_static_file
from triggers.vote_page import cast_vote_on_page, show_vote_page
from triggers.waits import list_waits
from triggers.web import Trigger, answers_errors
from triggers.workflow import get_workflow, list_workflows, start_execution, store_workflow

get_settings()  # A setting that cannot be read stops the app here, with the name of the variable.
check_identity()  # So does an app that could not know who calls.
check_retention()
check_mail()  # So do mails that cannot be sent, links and callbacks that cannot be signed.
check_links()
check_callback_key()
check_apis()
check_quiet_hours()
get_record_store()  # A storage account that is not named stops it too; so does one that cannot be read.

# Without strict typing, a payload with the SDK's envelope of a custom object instantiates any class that is loaded.
os.environ["AZURE_FUNCTIONS_DURABLE_STRICT_TYPING"] = "1"
# Every worker that is made from here on decodes events so that no payload can fail a run.
worker.DEFAULT_FUNCTIONS_DATA_CONVERTER = EventConverter()  # type: ignore[attr-defined]  # not in its __all__

# Each route has its permission, so that the platform asks for no key of its own, which would say nothing of who calls.
# Where nobody is known (AUTH=dev) it does if it is told to, as the local host is that others can reach.
_NOT_OPEN = func.AuthLevel.FUNCTION if auth_mode() == "dev" else func.AuthLevel.ANONYMOUS
app = df.DFApp(http_auth_level=func.AuthLevel.ANONYMOUS)


def _http(method: str, route: str, trigger: Trigger, permission: Permission | None) -> None:
    client_bound = app.durable_client_input(client_name="client")(answers_errors(trigger, permission))
    app.route(route=route, methods=method.split("|"), auth_level=_level(permission))(client_bound)


def _page(methods: tuple[str, ...], route: str, trigger: PageTrigger, permission: Permission | None) -> None:
    client_bound = app.durable_client_input(client_name="client")(answers_pages(trigger, permission))
    app.route(route=route, methods=methods, auth_level=_level(permission))(client_bound)


def _level(permission: Permission | None) -> func.AuthLevel:
    return func.AuthLevel.ANONYMOUS if permission is None else _NOT_OPEN


def _workflow(workflow: Callable[..., Any]) -> None:
    _orchestrator(pausable(workflow))


def _orchestrator(orchestrator: Callable[..., Any]) -> None:
    app.orchestration_trigger(context_name="context", orchestration=orchestrator.__name__)(orchestrator)


def _activity(activity: Callable[..., Any]) -> None:
    app.activity_trigger(input_name="request", activity=activity.__name__)(activity)


def _hub_activity(activity: Callable[..., Any]) -> None:
    """Register an activity that uses the task hub: ``request`` is its input, and ``client`` a durable client."""
    # As its parameters are bound by their names, Azure's worker looks at their types, and takes no generic ones.
    activity.__annotations__ = {"request": dict, "client": df.DurableFunctionsClient, "return": dict}
    bound = app.activity_trigger(input_name="request", activity=activity.__name__)(activity)
    app.durable_client_input(client_name="client")(bound)


def _entity(entity: Callable[..., Any]) -> None:
    app.entity_trigger(context_name="context", entity_name=entity.__name__)(entity)


def _timer(schedule: str, trigger: Callable[..., Awaitable[None]]) -> None:
    client_bound = app.durable_client_input(client_name="client")(trigger)
    app.timer_trigger(arg_name="timer", schedule=schedule)(client_bound)


# Purchase order
_http("POST", "start-purchase-order", start_purchase_order, "execution:start")
_http("POST", "signal-approval/{instance_id}", decide_purchase_order, "approval:decide")
_http("GET", "status/{instance_id}", get_purchase_order, "execution:read")
_workflow(purchase_order)
_activity(place_order)
_activity(cancel_order)

# Approval
_http("POST", "api/requests", start_approval, "execution:start")
_http("GET", "api/requests/{request_id}", get_approval, "execution:read")
_http("POST", "api/requests/{request_id}/delegate", delegate_approval, "approval:decide")
_http("POST", "api/requests/{request_id}/withdraw", withdraw_approval, "execution:start")
_http("POST", "api/requests/{request_id}/extend", extend_approval, "execution:start")
_http("POST", "api/requests/{request_id}/revise", revise_approval, "execution:start")
_http("POST", "api/requests/{request_id}/remind", remind_approval, "execution:start")
_http("POST", "api/approvals/{request_id}", decide_approval, "approval:decide")
_workflow(approval)
_activity(send_mail)
_activity(check_answers)
_activity(post_outcome)
_activity(send_approval_request)

# Guarded call: what an outside API does not do is put before people
_http("POST", "api/interventions", start_intervention, "execution:start")
_http("GET", "api/interventions", list_interventions, "execution:read")
_http("POST", "api/interventions/resolve", resolve_interventions, "execution:resume")
_http("GET", "api/interventions/{intervention_id}", get_intervention, "execution:read")
_http("POST", "api/interventions/{intervention_id}/retry", retry_intervention, "execution:resume")
_http("POST", "api/interventions/{intervention_id}/edit", edit_intervention, "execution:resume")
_http("POST", "api/interventions/{intervention_id}/skip", skip_intervention, "execution:resume")
_http("POST", "api/interventions/{intervention_id}/fail", fail_intervention, "execution:resume")
_workflow(guarded_call)
_activity(call_api)

# Manual intervention, and messages to all runs that have channels
_http("GET|POST", "design-pattern/intervention/start", start_manual_intervention, "execution:start")
_http("GET", "design-pattern/intervention/status/{workflow_id}", get_manual_intervention, "execution:read")
_http("POST", "api/v1/workflow/signal", signal_workflow, "execution:resume")
_http("POST", "api/v1/workflow/publishToInternalChannel", publish_to_internal_channel, "execution:resume")
_workflow(manual_intervention)

# Refund (API orchestration)
_http("GET|POST", "microservice/start", start_microservice, "execution:start")
_http("GET|POST", "microservice/signal", signal_microservice, "execution:resume")
_http("GET|POST", "microservice/swap", swap_microservice, "execution:resume")
_http("POST", "api/refunds", start_refund, "execution:start")
_http("GET", "api/refunds/{refund_id}", get_refund, "execution:read")
_http("POST", "api/refunds/{refund_id}/ready", make_refund_ready, "execution:resume")
_workflow(refund)

# Sign-up
_http("GET|POST", "signup/submit", submit_signup, "execution:start")
_http("GET|POST", "signup/verify", verify_signup, "execution:resume")
_http("GET", "signup/describe", describe_signup, "execution:read")
_http("GET", "api/signups/{username}", get_signup, "execution:read")
_workflow(signup)
_activity(send_signup_mail)
_activity(plan_reminder)
_activity(create_account)
_activity(erase_signup)

# Declared workflows
_http("POST", "api/v1/workflows", store_workflow, "workflow:write")
_http("GET", "api/v1/workflows", list_workflows, "execution:read")
_http("GET", "api/v1/workflows/{name}", get_workflow, "execution:read")
_http("POST", "api/v1/workflows/{name}/executions", start_execution, "execution:start")
_workflow(workflow)
_activity(send_workflow_mail)

# Pages: behind the links in mails, for anybody who has one; the outbox, with everybody's links, for few
_page(("GET", "HEAD"), "approve/{token}", show_vote_page, None)
_page(("POST",), "approve/{token}", cast_vote_on_page, None)
_page(("GET", "HEAD"), "intervene/{token}", show_gate_page, None)
_page(("POST",), "intervene/{token}", act_on_gate_page, None)
_page(("GET", "HEAD"), "signup", show_signup_page, None)
_page(("POST",), "signup", submit_signup_page, None)
_page(("GET", "HEAD"), "signup/confirm", show_confirm_page, None)
_page(("POST",), "signup/confirm", confirm_on_page, None)
_page(("POST",), "signup/resend", resend_on_page, None)
_page(("POST",), "signup/change-email", change_email_on_page, None)
_page(("GET", "HEAD"), "signup/stop", show_stop_page, None)
_page(("POST",), "signup/stop", stop_reminders_on_page, None)
_page(("GET", "HEAD"), "outbox", list_outbox, "approval:admin")
_page(("GET", "HEAD"), "outbox/{mail_id}", get_outbox_mail, "approval:admin")
app.route(route="static/{file}", methods=["GET", "HEAD"])(get_static_file)

# Executions: pausing and resuming any run
_http("GET", "api/v1/executions", list_executions, "execution:read")
_http("GET", "api/v1/executions/paused", list_paused, "execution:read")
_http("GET", "api/v1/executions/{id}", get_execution, "execution:read")
_http("POST", "api/v1/executions/{id}/pause", pause_execution, "execution:pause")
_http("POST", "api/v1/executions/{id}/resume", resume_execution, "execution:resume")
_http("POST", "api/v1/executions/{id}/cancel", cancel_execution, "execution:cancel")
_entity(pause)
_orchestrator(pause_due)
_hub_activity(apply_pause)
_hub_activity(cancel_paused)
_hub_activity(send_pause_mail)

# Limits: how often something may be done
_entity(rate_limit)

# Records: open waits, and the audit trail
_http("GET", "api/waits", list_waits, "execution:read")
_http("GET", "api/audit/{instance_id}", get_audit, "audit:read")
_http("GET", "api/audit/{instance_id}/verify", verify_audit, "audit:read")
_http("POST", "api/audit/{instance_id}/erase", erase_audit, "audit:erase")
_activity(record)
_timer("0 */10 * * * *", reconcile_records)
_timer("0 30 * * * *", purge_instances)
