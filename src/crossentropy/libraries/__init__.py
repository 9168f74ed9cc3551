"""Whose array: conversion, dtype and derivative rules of one array library each. No arithmetic."""
