"""An embedded host for any Azure Functions app of the Python v2 programming model.

``python -m local_host start --app-dir DIR`` does for an app what the official tools' ``func start`` does: it serves
its HTTP triggers, and runs its orchestrations, activities and entities against a task hub of its own.
"""
