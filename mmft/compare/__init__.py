"""``mmft compare``: two models, the same questions.

``questions``  the questions of a dataset, asked
``results``    the answers of both, scored, with intervals
``page``       these as an HTML page
"""
