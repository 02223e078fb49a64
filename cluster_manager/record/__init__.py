"""What is told and kept of what happened; influences nothing.

`steps` says what a write of the document means; `journal` keeps events; `chronicle` tells the story of a transition there and
in the log; `flight_recorder` gathers one record of it from `flight_entries`, `flight_files` writes them; `past_writers` says
who led when.
"""
