"""Checking a whole data set: every problem at once, with its place; lengths, tiles, answers; a page of samples."""

from mmft.data.check.record import KINDS, Problem, RecordCheck
from mmft.data.check.sources import Source, source_of
from mmft.data.check.survey import Group, Part, Survey, survey

__all__ = ['KINDS', 'Group', 'Part', 'Problem', 'RecordCheck', 'Source', 'Survey', 'source_of', 'survey']
