"""Sphinx's settings; ``docs/build_site.py`` runs it."""

from importlib.metadata import version as version_of

project = "distillkit"
author = "the distillkit authors"
release = version_of("distillkit")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_heading_anchors = 5
highlight_language = "text"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
# A class's own docstring says what it is; that of its constructor, what it takes.
autoclass_content = "both"

html_theme = "furo"
html_title = f"distillkit {release}"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
