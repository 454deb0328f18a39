"""Sphinx's settings; ``docs/build_site.py`` runs it."""

from importlib.metadata import version as version_of

project = "distillkit"
author = "the distillkit authors"
release = version_of("distillkit")
extensions = ["myst_parser"]

myst_heading_anchors = 5
highlight_language = "text"

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_title = f"distillkit {release}"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
