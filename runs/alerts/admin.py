"""The alerts' desk: channels with a test, rules in words, alerts, and the page of deliveries."""

from __future__ import annotations

import time
from typing import Any
from zoneinfo import available_timezones

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Prefetch, QuerySet
from django.forms import Script
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter, RelatedDropdownFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from pipelines import alert_definitions, alert_words
from pipelines.admin.links import POST_LINK, ask_first, change_url
from pipelines.forms.alerts import AlertChannelForm, AlertRuleForm
from pipelines.models import AlertChannel, AlertRule, Pipeline
from runs.alerts import bell, outbox
from runs.alerts.sending import HINTS
from runs.models import Alert, AlertDelivery, Closing, DeliveryState

# How long a page waits for its test message: a try takes longer only where nobody answers.
TEST_WAIT_S = 10.0
NAP_S = 0.1
STATE_COLOURS = {
    DeliveryState.WAITING.value: "warning",
    DeliveryState.SENDING.value: "primary",
    DeliveryState.SENT.value: "success",
    DeliveryState.FAILED.value: "danger",
    DeliveryState.DROPPED.value: "info",
    DeliveryState.MERGED.value: "info",
}


class ReadOnly:
    """What happened is looked at: nobody adds to it, changes it or takes from it."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    has_change_permission = has_delete_permission = has_add_permission


@admin.register(AlertChannel)
class AlertChannelAdmin(ModelAdmin):
    form = AlertChannelForm
    list_display = ("name", "service_name", "state", "quiet", "rules_telling")
    search_fields = ("name",)
    actions_detail = ("send_test",)
    delete_confirmation_template = "admin/desk/channel_delete.html"
    delete_selected_confirmation_template = "admin/desk/channel_delete.html"
    change_form_before_template = "admin/desk/zones.html"
    fieldsets = (
        (None, {"fields": ("name", "url", "enabled")}),
        ("Quiet hours", {"fields": ("quiet_from", "quiet_until", "quiet_zone", "quiet_mode")}),
    )

    class Media:
        css = {"all": ("admin_desk/desk.css",)}
        js = (Script("admin_desk/desk.js", type="module"),)

    def get_queryset(self, request: HttpRequest) -> QuerySet[AlertChannel]:
        return super().get_queryset(request).prefetch_related(Prefetch("rules", AlertRule.objects.order_by("name")))

    def get_fieldsets(self, request: HttpRequest, obj: AlertChannel | None = None) -> Any:
        """Who only looks sees the service, and nothing of the address."""
        if obj is None or self.has_change_permission(request, obj):
            return self.fieldsets
        (_, first), *rest = self.fieldsets
        return [(None, {**first, "fields": ("name", "service_name", "enabled")}), *rest]

    def get_readonly_fields(self, request: HttpRequest, obj: AlertChannel | None = None) -> Any:
        return () if obj is None or self.has_change_permission(request, obj) else ("service_name",)

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        more = {"zones": sorted(available_timezones())}
        return super().changeform_view(request, object_id, form_url, {**more, **(extra_context or {})})

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, Any, Any]:
        """A channel that rules tell is not deleted: they would tell nobody, without a word."""
        deleted, counts, needed, protected = super().get_deleted_objects(objs, request)
        telling = AlertRule.objects.filter(channels__in=[channel.pk for channel in objs]).distinct().order_by("name")
        link = '<a class="text-link" href="{}">{}</a>'
        users = [format_html(link, change_url(rule), rule.name) for rule in telling]
        return ([], {}, set(), users) if users else (deleted, counts, needed, protected)

    def save_model(self, request: HttpRequest, obj: AlertChannel, form: AlertChannelForm, change: bool) -> None:
        alert_definitions.save_channel(obj, form.typed_url, by=request.user)

    @display(description="service", ordering="scheme")
    def service_name(self, channel: AlertChannel) -> str:
        return channel.service

    @display(description="state", label={"on": "success", "off": "info", "lost": "danger"})
    def state(self, channel: AlertChannel) -> tuple[str, str]:
        if channel.has_lost_secrets:
            return "lost", "Key lost"
        return ("on", "On") if channel.enabled else ("off", "Off")

    @display(description="quiet hours")
    def quiet(self, channel: AlertChannel) -> str:
        return alert_words.quiet_in_words(channel)

    @display(description="rules")
    def rules_telling(self, channel: AlertChannel) -> str:
        return ", ".join(rule.name for rule in channel.rules.all()) or "none"

    @action(
        description="Send test",
        icon="send",
        url_path="send-test",
        permissions=["change"],
        variant=ActionVariant.PRIMARY,
        attrs=POST_LINK,
    )
    def send_test(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Send a message as it is saved, wait for how that ends, and tell."""
        channel = self.get_object(request, unquote(object_id))
        if channel is None:
            raise Http404
        if not self.has_change_permission(request, channel):
            raise PermissionDenied
        back = change_url(channel)
        text = f"A message says that {channel.name} works. It goes at once, in quiet hours too."
        asked = ask_first(self, request, title=f"Send a test to {channel.name}?", text=text, back=back)
        if asked is not None:
            return asked
        delivery = wait_for(outbox.send_test(channel, by=request.user))
        link = format_html('<a class="text-link" href="{}">See the delivery</a>', delivery.get_absolute_url())
        if delivery.state == DeliveryState.SENT:
            messages.success(request, format_html("Sent: the service took the message. {}", link))
        elif delivery.state == DeliveryState.FAILED:
            messages.error(request, format_html("Not sent: {} {}", delivery.error_message, link))
        else:
            late = "It is still on its way. If it stays so, no process lookups runs, or the broker is away."
            messages.warning(request, format_html("{} {}", late, link))
        return HttpResponseRedirect(back)


def wait_for(delivery: AlertDelivery) -> AlertDelivery:
    """Ring, and wait for the end of a delivery, or TEST_WAIT_S."""
    bell.ring()
    deadline = time.monotonic() + TEST_WAIT_S
    while delivery.ended_at is None and time.monotonic() < deadline:
        time.sleep(NAP_S)
        delivery.refresh_from_db()
    return delivery


@admin.register(AlertRule)
class AlertRuleAdmin(ModelAdmin):
    form = AlertRuleForm
    list_display = ("name", "state", "in_words")
    search_fields = ("name",)
    autocomplete_fields = ("pipelines",)
    readonly_fields = ("in_words",)
    fieldsets = (
        (None, {"fields": ("name", "enabled", "in_words")}),
        ("What", {"fields": ("kinds", "every_pipeline", "pipelines")}),
        ("Whom", {"fields": ("channels", "urgent", "remind_after_h")}),
        ("Limits", {"fields": ("late_after_min", "stale_after_h", "distance")}),
    )

    class Media:
        css = {"all": ("admin_desk/desk.css",)}
        js = (Script("admin_desk/alert_rule.js", type="module"),)

    def get_queryset(self, request: HttpRequest) -> QuerySet[AlertRule]:
        channels = Prefetch("channels", AlertChannel.objects.defer("secrets").order_by("name"))
        named = Prefetch("pipelines", Pipeline.objects.only("pk", "name").order_by("name"))
        return super().get_queryset(request).prefetch_related(channels, named)

    def get_urls(self) -> list[URLPattern]:
        words = self.admin_site.admin_view(require_POST(self.words_view))
        return [path("words/", words, name="pipelines_alertrule_words"), *super().get_urls()]

    def words_view(self, request: HttpRequest) -> JsonResponse:
        """What the form says as it is typed now; nothing is saved."""
        if not (self.has_add_permission(request) or self.has_change_permission(request)):
            raise PermissionDenied
        return JsonResponse({"words": AlertRuleForm(request.POST).words()})

    @display(description="in words")
    def in_words(self, rule: AlertRule) -> SafeString:
        said = alert_words.in_words(alert_words.said_by(rule)) if rule.pk and not rule._state.adding else ""
        address = reverse("admin:pipelines_alertrule_words")
        return format_html('<span class="desk-meaning" data-alert-words="{}">{}</span>', address, said)

    @display(description="state", label={"on": "success", "off": "info"})
    def state(self, rule: AlertRule) -> tuple[str, str]:
        return ("on", "On") if rule.enabled else ("off", "Off")

    def save_model(self, request: HttpRequest, obj: AlertRule, form: AlertRuleForm, change: bool) -> None:
        chosen = form.cleaned_data
        alert_definitions.save_rule(obj, channels=chosen["channels"], pipelines=chosen["pipelines"])

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """The service has saved channels and pipelines already."""


@admin.register(Alert)
class AlertAdmin(ReadOnly, ModelAdmin):
    list_display = ("opened_at", "about", "what", "standing", "count", "cause", "rule")
    list_filter = (
        ("kind", ChoicesDropdownFilter),
        ("closing", ChoicesDropdownFilter),
        ("rule", RelatedDropdownFilter),
        ("pipeline", AutocompleteSelectFilter),
    )
    list_filter_submit = True
    list_select_related = ("pipeline", "rule")
    search_fields = ("pipeline__name", "=code")
    show_full_result_count = False
    fieldsets = (
        (None, {"fields": ("about", "kind", "rule", "standing", "count")}),
        ("Times", {"fields": ("since", "opened_at", "last_at", "told_at", "closed_at", "closing")}),
        ("Cause", {"fields": ("cause", "code", "hint", "run")}),
        ("Told", {"fields": ("messages_about",)}),
    )
    readonly_fields = ("about", "standing", "messages_about")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Alert]:
        return super().get_queryset(request).filter(is_silent=False)

    @display(description="pipeline", ordering="pipeline__name")
    def about(self, alert: Alert) -> SafeString:
        return format_html('<a class="text-link" href="{}">{}</a>', alert.pipeline.get_absolute_url(), alert.pipeline)

    @display(description="what", ordering="kind")
    def what(self, alert: Alert) -> str:
        return alert.get_kind_display()

    @display(description="state", label={"open": "danger", Closing.RECOVERED: "success", Closing.UNWATCHED: "info"})
    def standing(self, alert: Alert) -> tuple[str, str]:
        return (alert.closing, alert.get_closing_display()) if alert.closed_at else ("open", "Open")

    @display(description="messages")
    def messages_about(self, alert: Alert) -> SafeString:
        address = f"{reverse('admin:runs_alertdelivery_changelist')}?alert__id__exact={alert.pk}"
        return format_html('<a class="text-link" href="{}">{}</a>', address, alert.deliveries.count())


@admin.register(AlertDelivery)
class AlertDeliveryAdmin(ReadOnly, ModelAdmin):
    list_display = ("created_at", "title", "channel_name", "state_badge", "attempts", "ended_at", "error_message")
    list_display_links = ("created_at", "title")
    list_filter = (
        ("state", ChoicesDropdownFilter),
        ("event", ChoicesDropdownFilter),
        ("channel", RelatedDropdownFilter),
    )
    list_filter_submit = True
    search_fields = ("=id", "title", "channel_name")
    search_help_text = "A message's id, words of its title, or a channel's name."
    show_full_result_count = False
    actions_detail = ("resend",)
    fieldsets = (
        (None, {"fields": ("title", "text", "channel_name", "event", "about")}),
        ("Delivery", {"fields": ("state_badge", "attempts", "error_code", "error_message", "what_to_do", "gone_with")}),
        ("Times", {"fields": ("created_at", "due", "ended_at", "requested_by")}),
    )
    readonly_fields = ("text", "about", "state_badge", "what_to_do", "gone_with")

    class Media:
        css = {"all": ("admin_desk/desk.css",)}
        js = (Script("admin_desk/desk.js", type="module"),)

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        return lookup == "alert__id__exact" or super().lookup_allowed(lookup, value, request)

    @display(description="text")
    def text(self, delivery: AlertDelivery) -> SafeString:
        return format_html('<pre class="receipt">{}</pre>', delivery.body)

    @display(description="state", ordering="state", label=STATE_COLOURS)
    def state_badge(self, delivery: AlertDelivery) -> tuple[str, str]:
        return delivery.state, delivery.get_state_display()

    @display(description="alert")
    def about(self, delivery: AlertDelivery) -> SafeString | str:
        if delivery.alert_id is None:
            return "-"
        address = reverse("admin:runs_alert_change", args=[delivery.alert_id])
        return format_html('<a class="text-link" href="{}">The alert</a>', address)

    @display(description="what to do")
    def what_to_do(self, delivery: AlertDelivery) -> str:
        return HINTS.get(delivery.error_code, "-")

    @display(description="sent with")
    def gone_with(self, delivery: AlertDelivery) -> SafeString | str:
        if delivery.merged_into is None:
            return "-"
        other = delivery.merged_into
        return format_html('<a class="text-link" href="{}">{}</a>', other.get_absolute_url(), other.title)

    def has_resend_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm("pipelines.change_alertchannel")

    @action(description="Send again", icon="refresh", url_path="resend", permissions=["resend"], attrs=POST_LINK)
    def resend(self, request: HttpRequest, object_id: str) -> HttpResponse:
        delivery = self.get_object(request, unquote(object_id))
        if delivery is None:
            raise Http404
        back = delivery.get_absolute_url()
        text = f"The same message goes to {delivery.channel_name} once more, at once."
        asked = ask_first(self, request, title="Send it again?", text=text, back=back)
        if asked is not None:
            return asked
        if delivery.channel_id is None:
            messages.error(request, f"The channel {delivery.channel_name} is gone: nothing can be sent to it.")
            return HttpResponseRedirect(back)
        again = outbox.resend(delivery, by=request.user)
        bell.ring()
        messages.success(request, "It is on its way: this page is the new delivery's.")
        return HttpResponseRedirect(again.get_absolute_url())
