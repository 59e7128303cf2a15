"""The probe: a version is loaded, run and measured in a process of its own before it may serve.

======================  ==============================================================================================
on the server's side    ``prober`` (the way in), ``supervision`` (one probe: its process, limits, and what is said of
                        its end), ``result`` (reads what the process tells)
in the probe's process  ``child`` (its life), ``measurement`` (loads, runs, measures), ``outputs`` (checks answers)
on both                 ``limits``, ``memory``
======================  ==============================================================================================

The process is a child of a fork server (:mod:`salver.runtimes.process.fork_server`) that has the framework imported and
never runs a model itself. What comes from it is never trusted. Linux only.
"""
